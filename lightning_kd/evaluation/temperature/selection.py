"""What a probe looks at."""

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_kd.evaluation.temperature.calibration import log_probabilities

CALLBACK_NAME = "TemperatureProbe"

MAX_SENTENCES = 20
"""Of more, the picture takes minutes to draw, and nobody looks at it."""


@dataclass(frozen=True)
class Selection:
    """Which sentences, which classes of them, at which temperatures.

    Attributes:
        sentences: Texts, at most 20; None = rows of the split.
        num_examples: How many of the teacher's most certain, and of its least certain rows are shown without
            sentences, from 1 to 10.
        temperatures: Each > 0.
        top_k: How many of the likeliest classes are shown, >= 1; all where there are fewer.
        bottom_k: How many of the least likely, >= 1.

    Raises:
        ValueError: If a number is out of range, or a sentence has no text.
    """

    sentences: list[str] | None
    num_examples: int
    temperatures: list[float]
    top_k: int
    bottom_k: int

    def __post_init__(self) -> None:
        if isinstance(self.sentences, str):
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: must be a list, got the text {self.sentences!r}; put it in brackets"
            )
        if self.sentences is not None and not self.sentences:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: the list is empty; name a sentence, or null for rows of the split"
            )
        if len(self.sentences or []) > MAX_SENTENCES:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: at most {MAX_SENTENCES}, got {len(self.sentences or [])}; probe the "
                f"others apart"
            )
        for number, sentence in enumerate(self.sentences or [], 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"{CALLBACK_NAME}.sentences: number {number} has no text, got {sentence!r}; remove it")
        if not self.temperatures:
            raise ValueError(f"{CALLBACK_NAME}.temperatures: the list is empty; name some, for instance 1, 4, 19")
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(
                    f"{CALLBACK_NAME}.temperatures: each must be > 0, got {temperature}; 1 leaves logits alone"
                )
        for name in ("num_examples", "top_k", "bottom_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{CALLBACK_NAME}.{name}: must be >= 1, got {getattr(self, name)}")
        if self.num_examples > MAX_SENTENCES // 2:
            raise ValueError(
                f"{CALLBACK_NAME}.num_examples: must be <= {MAX_SENTENCES // 2}, got {self.num_examples}: so many of "
                f"the most and of the least "
                "certain rows are shown; means are over the whole split anyway"
            )

    @staticmethod
    def check_num_classes(num_classes: int) -> None:
        """Refuse a single class.

        Raises:
            ValueError: Names the number of classes.
        """
        if num_classes < 2:
            raise ValueError(
                f"{CALLBACK_NAME}: there is {num_classes} class, and a temperature changes nothing about it; leave "
                f"it out"
            )

    def ranks(self, num_classes: int) -> list[int]:
        """The places shown, from 0, the likeliest class; each once."""
        top, bottom = range(min(self.top_k, num_classes)), range(max(num_classes - self.bottom_k, 0), num_classes)
        return sorted({*top, *bottom})

    def select_by_confidence(self, logits: Tensor) -> list[int]:
        """The rows with the highest, then those with the lowest probability of the likeliest class, at T = 1.

        Args:
            logits: Of the rows of a split, (N, C).
        """
        order = log_probabilities(logits, 1.0).max(dim=-1).values.argsort(descending=True, stable=True).tolist()
        most_confident = order[: self.num_examples]
        return most_confident + [row for row in order[-self.num_examples :] if row not in most_confident]
