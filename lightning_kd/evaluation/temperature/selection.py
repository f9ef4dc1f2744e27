"""What a probe looks at."""

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_kd.evaluation.temperature.calibration import log_probabilities

WHO = "TemperatureProbe"

MOST_SENTENCES = 20
"""Of more, the picture takes minutes to draw, and nobody looks at it."""


@dataclass(frozen=True)
class Selection:
    """Which sentences, which classes of them, at which temperatures.

    Attributes:
        sentences: Texts, at most 20; None = rows of the split.
        rows: How many of the teacher's most certain, and of its least certain rows are shown without sentences, from 1
            to 10.
        temperatures: Each > 0.
        top_k: How many of the likeliest classes are shown, >= 1; all where there are fewer.
        bottom_k: How many of the least likely, >= 1.

    Raises:
        ValueError: If a number is out of range, or a sentence has no text.
    """

    sentences: list[str] | None
    rows: int
    temperatures: list[float]
    top_k: int
    bottom_k: int

    def __post_init__(self) -> None:
        if isinstance(self.sentences, str):
            raise ValueError(f"{WHO}.sentences: must be a list, got the text {self.sentences!r}; put it in brackets")
        if self.sentences is not None and not self.sentences:
            raise ValueError(f"{WHO}.sentences: the list is empty; name a sentence, or null for rows of the split")
        if len(self.sentences or []) > MOST_SENTENCES:
            raise ValueError(
                f"{WHO}.sentences: at most {MOST_SENTENCES}, got {len(self.sentences or [])}; probe the others apart"
            )
        for number, sentence in enumerate(self.sentences or [], 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"{WHO}.sentences: number {number} has no text, got {sentence!r}; remove it")
        if not self.temperatures:
            raise ValueError(f"{WHO}.temperatures: the list is empty; name some, for instance 1, 4, 19")
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(f"{WHO}.temperatures: each must be > 0, got {temperature}; 1 leaves logits alone")
        for name in ("rows", "top_k", "bottom_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{WHO}.{name}: must be >= 1, got {getattr(self, name)}")
        if self.rows > MOST_SENTENCES // 2:
            raise ValueError(
                f"{WHO}.rows: must be <= {MOST_SENTENCES // 2}, got {self.rows}: so many of the most and of the least "
                "certain rows are shown; means are over the whole split anyway"
            )

    @staticmethod
    def check_classes(classes: int) -> None:
        """Refuse a single class.

        Raises:
            ValueError: Names the number of classes.
        """
        if classes < 2:
            raise ValueError(
                f"{WHO}: there is {classes} class, and a temperature changes nothing about it; leave it out"
            )

    def ranks(self, classes: int) -> list[int]:
        """The places shown, from 0, the likeliest class; each once."""
        top, bottom = range(min(self.top_k, classes)), range(max(classes - self.bottom_k, 0), classes)
        return sorted({*top, *bottom})

    def certain_rows(self, logits: Tensor) -> list[int]:
        """The rows with the highest, then those with the lowest probability of the likeliest class, at T = 1.

        Args:
            logits: Of the rows of a split, (N, C).
        """
        order = log_probabilities(logits, 1.0).max(dim=-1).values.argsort(descending=True, stable=True).tolist()
        most = order[: self.rows]
        return most + [row for row in order[-self.rows :] if row not in most]
