"""Atomic files, checkpoints, and objects as plain data."""
