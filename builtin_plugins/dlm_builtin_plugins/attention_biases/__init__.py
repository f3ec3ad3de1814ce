"""Attention biases. The core isolates documents and hides padding by itself."""
