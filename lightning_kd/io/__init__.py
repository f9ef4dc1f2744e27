"""Atomic files, checkpoints, and serialization of objects as plain data."""
