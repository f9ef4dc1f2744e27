"""The student's prediction for a row should hold for another wording of it."""

import math

import torch
from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, check_temperature, mean_over_heads
from lightning_kd.losses.soft_target import soft_target_loss
from lightning_kd.outputs import IGNORE_INDEX, Outputs


def consistency_loss(
    logits: Tensor, augmented_logits: Tensor, temperature: float = 0.4, confidence: float = 0.8
) -> Tensor:
    r"""KL divergence of the predictions for the augmented rows from those for the rows, mean over **all** rows.

    .. math:: \frac{1}{N} \sum_n [\max_c p_{nc} > \beta] \, KL(\tilde p_n \| q_n), \quad
              p = softmax(z), \; \tilde p = softmax(z / \tau), \; q = softmax(z^{aug})

    Rows that the student is not sure of count as 0. No gradient flows into p. Xie et al. 2020, Unsupervised Data
    Augmentation for Consistency Training, equation 1 and section 2.4.

    Args:
        logits: Of the rows as they are, (N, C), any floating dtype; computed in float32.
        augmented_logits: Of the augmented rows, (N, C).
        temperature: tau > 0; below 1 it sharpens what is to be matched.
        confidence: beta in [0, 1); 0 = all rows count.

    Returns:
        Float32 scalar; 0 with zero gradient if no row is left.

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 9.0]])
        >>> consistency_loss(sure, unsure)  # log 2 of the first row, nothing of the second
        tensor(0.3466)
    """
    target = logits.detach().float()
    confident = target.softmax(dim=-1).amax(dim=-1) > confidence
    # divided by their own number, and wanted by that of all rows
    confident_fraction = confident.sum() / max(len(confident), 1)
    return soft_target_loss(augmented_logits[confident], target[confident] / temperature) * confident_fraction


class ConsistencyLoss(DistillationLoss):
    """Consistency training (UDA): what the student thinks of a row it should think of another wording of it.

    Reads the student's own predictions, not the teacher's; needs ``data.augmentation``. By default of rows without a
    label only (``data.allow_unlabeled``).

    Args:
        weight: Factor of this loss in the total, >= 0.
        temperature: Divides the logits of the rows as they are, > 0. The paper takes 0.4.
        confidence: Rows count whose most likely class has a larger probability, in [0, 1). The paper takes 0.8 for few
            classes, 0.45 to 0.5 for many.
        include_labeled: Whether rows with a label count, too.

    Raises:
        ValueError: If an argument is out of range.
    """

    requires_teacher = False
    requires_augmented = True

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 0.4,
        confidence: float = 0.8,
        include_labeled: bool = False,
    ) -> None:
        super().__init__(weight)
        check_temperature(temperature, type(self).__name__)
        self.temperature = temperature
        if not (math.isfinite(confidence) and 0 <= confidence < 1):
            raise ValueError(f"ConsistencyLoss: confidence must be in [0, 1), got {confidence}; 0 lets all rows count")
        self.confidence = confidence
        self.include_labeled = include_labeled

    def _example_mask(self, labels: Tensor | None, logits: Tensor) -> Tensor:
        """Which rows count, (N,)."""
        if labels is None or self.include_labeled:
            return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        return labels == IGNORE_INDEX

    def num_elements(self, student: Outputs) -> Tensor:
        """The rows that count, whether the student is sure of them or not."""
        return torch.stack(
            [self._example_mask(head.labels, head.logits).sum() for head in student.heads.values()]
        ).sum()

    def forward(self, student: Outputs, teacher: Outputs | None = None) -> Tensor:
        """Mean over the heads of ``consistency_loss``."""
        assert student.augmented is not None  # promised by requires_augmented
        losses = []
        for head, augmented_head in student.zip_heads(student.augmented):
            mask = self._example_mask(head.labels, head.logits)
            losses.append(
                consistency_loss(head.logits[mask], augmented_head.logits[mask], self.temperature, self.confidence)
            )
        return mean_over_heads(losses)
