"""What every loss has in common."""

import math

import torch
from torch import Tensor, nn

from lightning_kd.outputs import ModelDims, Outputs, Requirement


class DistillationLoss(nn.Module):
    """Base of all losses.

    A subclass keeps each constructor argument in an attribute of the same name: checkpoints save a loss as its class
    and arguments, and ``loss_schedules`` change these attributes over the run.

    Attributes:
        requires_teacher: Whether ``forward`` reads the teacher's outputs.
        requires: What it reads of both networks beside their heads.
        requires_augmented: Whether it reads what the student returned for other wordings of the rows; only in training.
        averages_tokens: Whether it is a mean over tokens; else over the rows of the heads.
        compares_examples: Whether a class must mean the same in all rows, which positions of a row do not.

    Args:
        weight: Factor of this loss in the total, any finite number >= 0.

    Raises:
        ValueError: If ``weight`` is negative or not finite.
    """

    requires_teacher: bool = True
    requires: frozenset[Requirement] = frozenset()
    requires_augmented: bool = False
    averages_tokens: bool = False
    compares_examples: bool = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{type(self).__name__}: weight must be a finite number >= 0, got {weight}")
        self.weight = weight

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check, before the first step, that the sizes of the networks fit. Called for losses with ``requires``.

        Raises:
            ValueError: If they do not.
        """

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Compute the loss, **not** multiplied by ``weight``.

        Args:
            student: What the student returned for the batch.
            teacher: What the teacher returned for the same rows; None only where ``requires_teacher`` is False.

        Returns:
            A float32 scalar with gradient to the student.
        """
        raise TypeError(f"{type(self).__name__} does not define forward(student, teacher)")

    def num_elements(self, student: Outputs) -> Tensor:
        """How many values ``forward`` takes the mean over, (); of several devices one with more counts for more."""
        if self.averages_tokens and student.token_mask is not None:
            return student.token_mask.sum()
        rows = [len(h.logits) if h.mask is None else h.mask.any(dim=-1).sum() for h in student.heads.values()]
        return torch.as_tensor(sum(rows))


def check_temperature(temperature: float, loss_name: str) -> None:
    """Raise if a temperature is not a finite number > 0.

    Raises:
        ValueError: Names the loss and the value.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"{loss_name}: temperature must be > 0, got {temperature}; "
            "1 keeps the teacher's probabilities, 2 to 20 soften them"
        )


def mean_over_rows(values: Tensor) -> Tensor:
    """Mean of per-row values (N,); 0, still attached to the graph, where no row is left."""
    return values.sum() / max(values.numel(), 1)


def mean_over_heads(values: list[Tensor]) -> Tensor:
    """Mean of the scalars that a loss gave for each head."""
    return torch.stack(values).mean()


def drop_masked_rows(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keep the rows in which at least one class counts: the others have no distribution.

    Args:
        mask: (N, C), True = counts.
        tensors: Each (N, ...).

    Returns:
        The mask and the tensors with M <= N rows.
    """
    keep = mask.any(dim=-1)
    return mask[keep], *(tensor[keep] for tensor in tensors)


def masked_log_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Log-probabilities over the classes that count.

    Args:
        logits: (N, C), float32.
        mask: (N, C), True = counts; None = all. Each row needs one class that counts.

    Returns:
        (N, C). A masked class has -inf, that is a probability of exactly 0. Zero it before multiplying.
    """
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.log_softmax(dim=-1)
