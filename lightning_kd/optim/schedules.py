"""Learning rate schedules."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""Schedules of ``transformers.get_scheduler`` that need only the number of steps and of warmup steps."""


def check_lr_scheduler(name: str | None, warmup_ratio: float) -> None:
    """Check the arguments of a schedule.

    Raises:
        ValueError: If the name is not in ``LR_SCHEDULERS``, or ``warmup_ratio`` is outside [0, 1] or has no effect.
    """
    if name is not None and name not in LR_SCHEDULERS:
        raise ValueError(f"lr_scheduler: unknown schedule {name!r}; use null or one of {', '.join(LR_SCHEDULERS)}")
    if not 0 <= warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio: must be in [0, 1], got {warmup_ratio}")
    if warmup_ratio and name in (None, "constant"):
        raise ValueError(
            f"warmup_ratio: has no effect with lr_scheduler {name or 'null'}, got {warmup_ratio}; use "
            "constant_with_warmup"
        )


def require_total_steps(total_steps: float, feature: str, remedy: str) -> int:
    """Return the number of optimizer steps of a run.

    Args:
        total_steps: Lightning's estimate.
        feature: Argument that needs the number, for the error message.
        remedy: Alternative to setting a number of steps, for the error message.

    Raises:
        ValueError: If the number is infinite or unknown.
    """
    if not 0 < total_steps < float("inf"):  # -1: the dataloader has no length
        raise ValueError(
            f"{feature} needs the number of steps, but the run has no known end; set trainer.max_steps, or "
            f"trainer.max_epochs if the data have a length, or {remedy}"
        )
    return int(total_steps)


def build_lr_scheduler(name: str, optimizer: Optimizer, warmup_ratio: float, total_steps: float) -> LRScheduler:
    """Build a learning rate schedule over the optimizer steps of a run.

    Args:
        name: One of ``LR_SCHEDULERS``.
        optimizer: The optimizer; its learning rate is the peak.
        warmup_ratio: Fraction of the steps over which the learning rate rises linearly from 0, in [0, 1].
        total_steps: Number of optimizer steps.

    Raises:
        ValueError: If the number of steps is infinite or unknown.
    """
    steps = require_total_steps(total_steps, f"lr_scheduler: {name!r}", "lr_scheduler to null")
    # at least one step after the warmup: transformers' polynomial schedule divides by their number
    warmup_steps = min(math.ceil(warmup_ratio * steps), steps - 1)  # rounded up, as by transformers' Trainer
    scheduler: LRScheduler = get_scheduler(name, optimizer, warmup_steps, steps)
    return scheduler
