"""Noise types."""
