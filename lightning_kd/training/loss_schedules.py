"""Schedules of loss arguments, such as weights and temperatures, over the optimizer steps of a run."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from lightning_kd.io.serialization import init_arguments
from lightning_kd.losses.base import DistillationLoss

Shape = Literal["linear", "cosine", "exponential", "saturating"]


@dataclass(frozen=True)
class Schedule:
    """A number that moves from ``start`` to ``end`` over the optimizer steps of a run.

    A falling temperature shows the student easy targets first (Jafari et al. 2021, Annealing Knowledge Distillation,
    which scales the teacher's logits this way for a squared error). Weights that move from the teacher to the labels
    are the teacher annealing of Clark et al. 2019, BAM! (linear, over the whole run).

    Args:
        start: Value at the first step.
        end: Value from ``until`` on.
        until: Fraction of the steps after which ``end`` is reached, in (0, 1].
        shape: ``linear``; ``cosine``, which starts and ends slowly; ``exponential``, which changes by the same factor
            at each step; or ``saturating``, which approaches ``end`` like 1 - exp(-5 x) (the ``log`` schedule of Xie
            et al. 2020, UDA).

    Raises:
        ValueError: If a value is not finite, ``until`` is outside (0, 1], or ``exponential`` has a value <= 0.

    Example:
        >>> Schedule(8, 1).at(0.5)
        4.5
    """

    start: float
    end: float
    until: float = 1.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"Schedule: start and end must be finite numbers, got {self.start} and {self.end}")
        if not 0 < self.until <= 1:
            raise ValueError(f"Schedule: until must be in (0, 1], a fraction of the steps, got {self.until}")
        if self.shape not in get_args(Shape):
            raise ValueError(f"Schedule: shape must be one of {', '.join(get_args(Shape))}, got {self.shape!r}")
        if self.shape == "exponential" and min(self.start, self.end) <= 0:
            raise ValueError(
                f"Schedule: shape exponential needs start and end > 0, got {self.start} and {self.end}; "
                "use linear or cosine"
            )

    def __str__(self) -> str:
        suffix = "" if self.until == 1 else f" by {self.until:.0%} of the steps"
        return f"{self.start} to {self.end} ({self.shape}{suffix})"

    def at(self, progress: float) -> float:
        """Return the value at a point in the run.

        Args:
            progress: Optimizer steps taken / total steps, in [0, 1].
        """
        fraction = min(max(progress / self.until, 0.0), 1.0)
        if self.shape == "exponential":
            return float(self.start ** (1 - fraction) * self.end**fraction)
        if self.shape == "cosine":
            fraction = (1 - math.cos(math.pi * fraction)) / 2
        if self.shape == "saturating":
            fraction = math.expm1(-5 * fraction) / math.expm1(-5)
        return float(self.start + (self.end - self.start) * fraction)


LossSchedules = dict[str, dict[str, Schedule]]
"""Schedules by name of the loss and of its argument."""


def resolve_schedules(
    schedules: Mapping[str, Mapping[str, Schedule | Mapping[str, Any]]] | None,
    losses: Mapping[str, DistillationLoss],
    field: str = "loss_schedules",
) -> LossSchedules:
    """Build the schedules, and check their first and last values by building each loss with them.

    Args:
        schedules: Schedules, or their arguments as in YAML and in checkpoints, by loss and argument.
        losses: The losses by name.
        field: Name of the argument, for error messages.

    Returns:
        The schedules by loss and argument.

    Raises:
        ValueError: If a loss or an argument does not exist or is not a float, or if a value is out of range.
    """
    resolved: LossSchedules = {}
    for name, arguments in (schedules or {}).items():
        if name not in losses:
            raise ValueError(f"{field}.{name}: no loss has this name; use one of {', '.join(losses)}")
        for argument, schedule in arguments.items():
            try:
                built = schedule if isinstance(schedule, Schedule) else Schedule(**schedule)
                _check_ends(losses[name], argument, built)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{field}.{name}.{argument}: {error}") from error
            resolved.setdefault(name, {})[argument] = built
    return resolved


def _check_ends(loss: DistillationLoss, argument: str, schedule: Schedule) -> None:
    parameters = inspect.signature(type(loss)).parameters
    float_names = [name for name, p in parameters.items() if p.annotation in (float, "float", p.empty)]
    if argument not in float_names:
        raise ValueError(f"not a float argument of {type(loss).__name__}; use one of {', '.join(float_names)}")
    arguments = init_arguments(loss)
    if arguments is None:
        raise ValueError(
            f"{type(loss).__name__} does not keep each constructor argument in an attribute of the same name"
        )
    with torch.random.fork_rng(devices=[]):  # building a loss may initialize weights
        ends = [type(loss)(**{**arguments, argument: value}) for value in (schedule.start, schedule.end)]
    # check_losses reads it once, before the first step
    loss.compares_examples = loss.compares_examples or any(end.compares_examples for end in ends)


def apply_schedules(
    schedules: LossSchedules, losses: Mapping[str, DistillationLoss], progress: float
) -> dict[str, float]:
    """Set the scheduled arguments of the losses; call it before each step.

    Args:
        schedules: Schedules by loss and argument.
        losses: The losses by name.
        progress: Optimizer steps taken / total steps, in [0, 1].

    Returns:
        The values by ``<loss name>_<argument>``.
    """
    values: dict[str, float] = {}
    for name, arguments in schedules.items():
        for argument, schedule in arguments.items():
            values[f"{name}_{argument}"] = value = schedule.at(progress)
            setattr(losses[name], argument, value)
    return values
