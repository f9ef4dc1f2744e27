"""Selection of sentences, classes and temperatures."""

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_kd.evaluation.temperature import calibration
from lightning_kd.tasks.base import Task

CALLBACK_NAME = "TemperatureProbe"

MAX_SENTENCES = 20
"""Maximum number of sentences; plotting more takes minutes."""


@dataclass(frozen=True)
class Selection:
    """The sentences, classes and temperatures to show.

    Attributes:
        sentences: Texts, at most 20; None selects examples of the split.
        num_examples: Without ``sentences``, show this many of the most and of the least confident examples, 1-10.
        temperatures: Temperatures, each > 0.
        top_k: Number of most likely classes to show, >= 1.
        bottom_k: Number of least likely classes to show, >= 1.

    Raises:
        ValueError: If a value is out of range, or a sentence is empty.
    """

    sentences: list[str] | None
    num_examples: int
    temperatures: list[float]
    top_k: int
    bottom_k: int

    def __post_init__(self) -> None:
        if isinstance(self.sentences, str) or self.sentences == []:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: must be a list of texts, got {self.sentences!r}; put texts in brackets, "
                "or set null for examples of the split"
            )
        sentences = self.sentences or []
        if len(sentences) > MAX_SENTENCES:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: at most {MAX_SENTENCES}, got {len(sentences)}; probe the others separately"
            )
        for number, sentence in enumerate(sentences, 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"{CALLBACK_NAME}.sentences: number {number} has no text, got {sentence!r}; remove it")
        if not self.temperatures:
            raise ValueError(f"{CALLBACK_NAME}.temperatures: is empty; add some, for instance 1, 4, 19")
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(f"{CALLBACK_NAME}.temperatures: must be > 0, got {temperature}; 1 = unchanged logits")
        for name in ("num_examples", "top_k", "bottom_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{CALLBACK_NAME}.{name}: must be >= 1, got {getattr(self, name)}")
        if self.num_examples > MAX_SENTENCES // 2:
            raise ValueError(
                f"{CALLBACK_NAME}.num_examples: must be <= {MAX_SENTENCES // 2}, got {self.num_examples}; averages "
                "are over the whole split in any case"
            )

    @staticmethod
    def check_num_classes(num_classes: int) -> None:
        """Raise if there are fewer than two classes.

        Raises:
            ValueError: If there are; the message contains their number.
        """
        if num_classes < 2:
            raise ValueError(f"{CALLBACK_NAME}: requires at least 2 classes, got {num_classes}; remove it")

    def ranks(self, num_classes: int) -> list[int]:
        """Return the ranks to show, each once; 0 is the most likely class."""
        top, bottom = range(min(self.top_k, num_classes)), range(max(num_classes - self.bottom_k, 0), num_classes)
        return sorted({*top, *bottom})

    def select_by_confidence(self, logits: Tensor) -> list[int]:
        """Return the indices of the most confident, then of the least confident examples, at T = 1.

        Args:
            logits: Logits of a split, (N, C).
        """
        confidence = calibration.log_probabilities(logits, 1.0).max(dim=-1).values
        order = confidence.argsort(descending=True, stable=True).tolist()
        most_confident = order[: self.num_examples]
        return most_confident + [row for row in order[-self.num_examples :] if row not in most_confident]


def check_named_labels(task: Task) -> None:
    """Raise if a task does not assign one named class to each example.

    Raises:
        ValueError: If it does not; the message names the task.
    """
    if not task.named_labels or task.head_kind != "categorical":
        kind = type(task).__name__
        raise ValueError(f"{CALLBACK_NAME}: requires one named class per example, not the outputs of {kind}; remove it")
