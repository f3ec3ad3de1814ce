"""Maskings."""
