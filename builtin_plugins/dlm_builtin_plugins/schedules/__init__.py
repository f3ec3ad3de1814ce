"""Noise schedules. Time t runs from 0 (clean) to 1 (all masked)."""
