"""A number that changes over the run."""

import math
from dataclasses import dataclass
from typing import Literal

SHAPES = ("linear", "cosine", "exponential", "saturating")


@dataclass(frozen=True)
class Schedule:
    """A weight or temperature that goes from one value to another over the optimiser's steps.

    Temperatures that fall (Jafari et al. 2021, Annealing Knowledge Distillation, which so scales the teacher's logits
    for a squared error) show the student easy targets first; weights that move from the teacher to the labels are the
    teacher annealing of Clark et al. 2019, BAM! (linear, over the whole run).

    Args:
        start: Value at the first step.
        end: Value from ``until`` on.
        until: Share of the steps after which ``end`` is reached, in (0, 1].
        shape: ``linear``; ``cosine``, which starts and ends slowly; ``exponential``, by the same factor at each step;
            ``saturating``, which nears ``end`` as 1 - exp(-5 x) does, the ``log`` schedule of Xie et al. 2020 (UDA).

    Raises:
        ValueError: If a value is not finite, ``until`` is outside (0, 1], or ``exponential`` has a value <= 0.

    Example:
        >>> Schedule(8, 1).at(0.5)
        4.5
    """

    start: float
    end: float
    until: float = 1.0
    shape: Literal["linear", "cosine", "exponential", "saturating"] = "linear"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"Schedule: start and end must be finite numbers, got {self.start} and {self.end}")
        if not 0 < self.until <= 1:
            raise ValueError(f"Schedule: until must be in (0, 1], a share of the steps, got {self.until}")
        if self.shape not in SHAPES:
            raise ValueError(f"Schedule: shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")
        if self.shape == "exponential" and min(self.start, self.end) <= 0:
            raise ValueError(
                f"Schedule: exponential never reaches or leaves 0, got {self.start} to {self.end}; use linear or cosine"
            )

    def __str__(self) -> str:
        by = "" if self.until == 1 else f" by {self.until:.0%} of the steps"
        return f"{self.start} to {self.end} ({self.shape}{by})"

    def at(self, progress: float) -> float:
        """The value after a share of the steps.

        Args:
            progress: Optimiser steps done over all steps, in [0, 1].
        """
        done = min(max(progress / self.until, 0.0), 1.0)
        if self.shape == "exponential":
            return float(self.start ** (1 - done) * self.end**done)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        if self.shape == "saturating":
            done = math.expm1(-5 * done) / math.expm1(-5)
        return float(self.start + (self.end - self.start) * done)
