"""Base class of the losses, and functions that several of them share."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_kd.outputs import Batch, Head, ModelDims, Outputs, Requirement

MAX_TEMPERATURE = 1000
"""With it, the loss of float32 logits of ordinary size is exact to 3 digits; at 10,000 it is not exact to one."""


class DistillationLoss(nn.Module):
    """Base class of all losses.

    A subclass stores each constructor argument as an attribute of the same name: checkpoints save a loss as its class
    and arguments, and ``loss_schedules`` changes these attributes over the run.

    Attributes:
        requires_teacher: True if ``forward`` reads the teacher's outputs.
        requires: Intermediate outputs of both models that ``forward`` reads.
        requires_classes: True if ``forward`` reads heads as distributions over classes, see ``Head.as_categorical``.
        requires_augmented: True if ``forward`` reads the student's outputs for augmented examples, so that the loss is
            computed in training only.
        averages_tokens: True if the loss is a mean over tokens, not over the targets of the heads.
        compares_examples: True if a class must have the same meaning in all examples, unlike positions.

    Args:
        weight: Weight of the loss in the total, any finite number >= 0.

    Raises:
        ValueError: If ``weight`` is negative or not finite.
    """

    requires_teacher: bool = True
    requires: frozenset[Requirement] = frozenset()
    requires_classes: bool = False
    requires_augmented: bool = False
    averages_tokens: bool = False
    compares_examples: bool = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self._check_nonnegative(weight=weight)
        self.weight = weight

    def _check_nonnegative(self, **arguments: float) -> None:
        for name, value in arguments.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{type(self).__name__}: {name} must be a finite number >= 0, got {value}")

    def _check_temperature(self, temperature: float) -> None:
        check_temperature(type(self).__name__, temperature)

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check the dimensions of the models before the first step; called for losses with ``requires``.

        Raises:
            ValueError: If the loss does not support them.
        """

    def check_data(self, datamodule: Any, field: str) -> None:
        """Check the data before the first step.

        Args:
            datamodule: Has the attributes of ``lightning_kd.data.interface.DataModuleInterface``.
            field: Name of this loss for messages, such as ``losses.soft``.

        Raises:
            ValueError: If the data lack it.
        """

    def check_num_classes(self, num_classes: int, field: str) -> str | None:
        """Check before the first step that there are enough classes.

        Args:
            num_classes: Number of classes, >= 2.
            field: Name of this loss for messages, such as ``losses.soft``.

        Returns:
            A warning if a part of the loss does not depend on the student, else None.

        Raises:
            ValueError: If the whole loss does not.
        """
        return None

    def extend_outputs(self, student: Outputs, batch: Batch, run_student: Callable[[Batch], Outputs]) -> Outputs:
        """Return the student's outputs for a training batch with additional outputs that this loss needs.

        Args:
            student: The student's outputs, possibly extended by other losses.
            batch: The training batch.
            run_student: Runs the student on another batch.
        """
        return student

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Compute the loss, **not** multiplied by ``weight``.

        Args:
            student: The student's outputs for a batch.
            teacher: The teacher's outputs for the same batch; None is allowed if ``requires_teacher`` is False.

        Returns:
            A float32 scalar with a gradient to the student.
        """
        raise TypeError(f"{type(self).__name__} does not define forward(student, teacher)")

    def num_elements(self, student: Outputs) -> Tensor:
        """Return the number of elements averaged by ``forward`` (scalar tensor); weights the loss across devices."""
        if self.averages_tokens and student.token_mask is not None:
            return student.token_mask.sum()
        return torch.as_tensor(sum(self._num_targets(head) for head in self._heads(student).values()))

    def _num_targets(self, head: Head) -> Tensor | int:
        """Return the number of targets of a head that ``forward`` averages."""
        return len(head.logits) if head.mask is None else head.mask.any(dim=-1).sum()

    def _heads(self, outputs: Outputs) -> dict[str, Head]:
        """Return the heads, as distributions over classes if the loss requires them."""
        return outputs.as_categorical(type(self).__name__).heads if self.requires_classes else outputs.heads

    def _head_pairs(self, student: Outputs, teacher: Outputs | None) -> Iterator[tuple[Head, Head]]:
        """Iterate over the heads of student and teacher."""
        assert teacher is not None  # guaranteed by requires_teacher
        return Outputs(self._heads(student)).zip_heads(Outputs(self._heads(teacher)))


def check_temperature(name: str, temperature: float) -> None:
    """Raise a ``ValueError`` that names the loss if a temperature is out of range."""
    if not 0 < temperature <= MAX_TEMPERATURE:
        raise ValueError(
            f"{name}: temperature must be > 0 and <= {MAX_TEMPERATURE}, got {temperature}; 1 keeps the teacher's "
            "probabilities, 2 to 20 soften them, and above the maximum rounding errors times T² exceed the loss"
        )


def check_logits(name: str, *tensors: Tensor | None) -> None:
    """Raise a ``ValueError`` that names the function if logits and mask, if any, are not all of one shape (N, C)."""
    shapes = [tuple(tensor.shape) for tensor in tensors if tensor is not None]
    if len(shapes[0]) != 2 or len(set(shapes)) > 1:
        raise ValueError(
            f"{name}: logits and mask must have one shape (N, C), got {', '.join(map(str, shapes))}; flatten batch and "
            "positions into N first, as in logits.flatten(0, -2), or logits.movedim(1, -1).flatten(0, -2) for images"
        )


def mean_or_zero(values: Tensor) -> Tensor:
    """Return the mean of values (N,); 0 with zero gradient if there are none."""
    return values.sum() / max(values.numel(), 1)


def mean_of_losses(values: list[Tensor]) -> Tensor:
    """Return the mean of a loss over heads or pairs of layers, from one scalar for each."""
    return torch.stack(values).mean()


def drop_masked_targets(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keep the targets that have at least one included class; the others have no distribution.

    Args:
        mask: (N, C), True = included.
        tensors: Each (N, ...).

    Returns:
        The mask and the tensors with M <= N targets.
    """
    keep = mask.any(dim=-1)
    return mask[keep], *(tensor[keep] for tensor in tensors)


def masked_log_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return the log-probabilities over the included classes.

    Args:
        logits: (N, C), float32.
        mask: (N, C), True = included, at least one class per target; None = all.

    Returns:
        (N, C); -inf, a probability of exactly 0, at masked classes. Zero them before multiplying.
    """
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.log_softmax(dim=-1)
