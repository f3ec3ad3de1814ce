"""Checkpoints: a folder is whole, or it is not there."""
