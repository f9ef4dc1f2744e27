"""Gradient accumulation of a Trainer."""

from lightning.pytorch import Trainer


def is_accumulating(trainer: Trainer) -> bool:
    """Return True if the optimizer does not step after the current batch."""
    # Lightning (2.6) has no public equivalent
    return trainer.fit_loop._should_accumulate()
