"""Data: sources, text packing, conversations, collation and a resumable order."""
