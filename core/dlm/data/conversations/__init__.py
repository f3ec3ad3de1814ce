"""Fine-tuning on conversations: formats, rendering, packing, and rows that are wrong."""
