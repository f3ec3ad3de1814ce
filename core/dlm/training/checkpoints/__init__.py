"""Checkpoints on disk: a folder is whole, or it is not there."""
