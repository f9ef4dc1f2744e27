"""Consistency of the student's predictions for an example and for an augmentation of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, mean_of_losses
from lightning_kd.losses.soft_target import soft_target_loss
from lightning_kd.outputs import AUGMENTED, IGNORE_INDEX, Batch, Head, Outputs, with_inputs


def consistency_loss(
    logits: Tensor, augmented_logits: Tensor, temperature: float = 0.4, confidence: float = 0.8
) -> Tensor:
    r"""Compute the KL divergence from the predictions to those for augmented examples, averaged over **all** targets.

    .. math:: \frac{1}{N} \sum_n [\max_c p_{nc} > \beta] \, KL(\tilde p_n \| q_n), \quad
              p = softmax(z), \; \tilde p = softmax(z / \tau), \; q = softmax(z^{aug})

    Targets below the confidence threshold contribute 0. No gradient flows into p. Xie et al. 2020, Unsupervised Data
    Augmentation for Consistency Training, equation 1 and section 2.4.

    Args:
        logits: Logits for the original examples, (N, C), any floating dtype; computed in float32.
        augmented_logits: Logits for the augmented examples, (N, C).
        temperature: tau > 0; below 1 it sharpens p.
        confidence: beta in [0, 1); 0 = no threshold.

    Returns:
        Float32 scalar; 0 with zero gradient if there is no target.

    Example:
        >>> logits, augmented_logits = torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 9.0]])
        >>> consistency_loss(logits, augmented_logits)  # log 2 from the first target, nothing from the second
        tensor(0.3466)
    """
    target = logits.detach().float()
    confident = target.softmax(dim=-1).amax(dim=-1) > confidence
    # soft_target_loss averages over the confident targets only
    confident_fraction = confident.sum() / max(len(confident), 1)
    return soft_target_loss(augmented_logits[confident], target[confident] / temperature) * confident_fraction


class ConsistencyLoss(DistillationLoss):
    """Consistency training (UDA): the student's predictions should not change under augmentation.

    Compares the student with itself, without a teacher. Needs ``data.augmentation``, and by default uses only unlabeled
    examples (``data.allow_unlabeled``).

    Args:
        weight: Weight of this loss in the total, >= 0.
        temperature: Divides the logits of the original examples, > 0. The paper uses 0.4.
        confidence: Threshold in [0, 1): only examples whose most likely class is more probable are used. The paper uses
            0.8 for few classes, 0.45 to 0.5 for many.
        include_labeled: If True, also use labeled examples.

    Raises:
        ValueError: If an argument is out of range; before the first step, if the data have no augmentation, or no
            unlabeled examples although only these are used.
    """

    requires_teacher = False
    requires_classes = True
    requires_augmented = True

    def __init__(
        self, weight: float = 1.0, temperature: float = 0.4, confidence: float = 0.8, include_labeled: bool = False
    ) -> None:
        super().__init__(weight)
        self._check_temperature(temperature)
        if not 0 <= confidence < 1:
            raise ValueError(f"ConsistencyLoss: confidence must be in [0, 1), got {confidence}; 0 uses all examples")
        self.temperature = temperature
        self.confidence = confidence
        self.include_labeled = include_labeled

    def check_data(self, datamodule: Any, field: str) -> None:
        """Check that the data have augmentations, and unlabeled examples if only these are used."""
        if datamodule.augmentation is None:
            raise ValueError(f"{field}: needs augmented examples; set data.augmentation, for instance TfIdfReplacement")
        if not self.include_labeled and not datamodule.allow_unlabeled:
            raise ValueError(
                f"{field}: uses unlabeled examples only, but data.allow_unlabeled is false; enable it, or set "
                "include_labeled: true"
            )

    def extend_outputs(self, student: Outputs, batch: Batch, run_student: Callable[[Batch], Outputs]) -> Outputs:
        """Add the outputs for the augmented examples."""
        if student.augmented is not None:
            return student
        return replace(student, augmented=run_student(with_inputs(batch, batch[AUGMENTED])))

    def _target_mask(self, head: Head) -> Tensor:
        """Return which targets to use, (N,)."""
        if head.labels is None or self.include_labeled:
            return torch.ones(len(head.logits), dtype=torch.bool, device=head.logits.device)
        return head.labels == IGNORE_INDEX

    def _num_targets(self, head: Head) -> Tensor:
        return self._target_mask(head).sum()  # below the confidence threshold or not

    def forward(self, student: Outputs, teacher: Outputs | None = None) -> Tensor:
        """Return the mean of ``consistency_loss`` over the heads."""
        losses = []
        for head, augmented_head in self._head_pairs(student, student.augmented):
            mask = self._target_mask(head)
            losses.append(
                consistency_loss(head.logits[mask], augmented_head.logits[mask], self.temperature, self.confidence)
            )
        return mean_of_losses(losses)
