"""Cross-entropy with the true labels."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_kd.losses.anneal import Anneal
from lightning_kd.losses.base import (
    DistillationLoss,
    drop_masked_rows,
    masked_log_softmax,
    mean_over_heads,
    mean_over_rows,
)
from lightning_kd.losses.chunked import chunked_sum
from lightning_kd.outputs import IGNORED, Outputs


def hard_label_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, mask: Tensor | None = None) -> Tensor:
    r"""Cross-entropy with label smoothing, mean over the rows that have a label.

    .. math:: (1 - \varepsilon)\,(-\log p_y) + \varepsilon \cdot \frac{1}{K} \sum_{c \in kept} -\log p_c

    where K is the number of classes of the row that count, so masked classes get no smoothing mass
    (label smoothing: Szegedy et al. 2016, Rethinking the Inception Architecture, section 7).

    Args:
        logits: (N, C), any floating dtype; computed in float32.
        labels: (N,), class indices; -100 drops the row.
        label_smoothing: epsilon in [0, 1).
        mask: (N, C), True = the class counts; None = all of them. A label must not point at a masked class.

    Returns:
        Float32 scalar; 0 with zero gradient if no row is left.

    Example:
        >>> hard_label_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """
    labelled = labels != IGNORED
    if mask is None:  # sum and count instead of a selection of rows, which would wait for a GPU

        def row_sum(rows: Tensor, place: slice) -> Tensor:
            return cross_entropy(rows.float(), labels[place], reduction="sum", label_smoothing=label_smoothing)

        return chunked_sum(logits, row_sum) / labelled.sum().clamp(min=1)
    mask, logits, labels = drop_masked_rows(mask[labelled], logits[labelled].float(), labels[labelled])
    log_probs = masked_log_softmax(logits, mask)
    loss = -log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    uniform = -log_probs.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)
    return mean_over_rows(torch.lerp(loss, uniform, label_smoothing))


class HardLabelLoss(DistillationLoss):
    """Cross-entropy of the student with the true labels.

    Args:
        weight: Factor of this loss in the total, >= 0, or a schedule.
        label_smoothing: Probability mass spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: If ``label_smoothing`` is outside [0, 1); on use, if the batch has no labels.
    """

    needs_teacher = False

    def __init__(self, weight: float | Anneal = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(weight)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"HardLabelLoss: label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def counted(self, student: Outputs) -> Tensor:
        """The rows with a label."""
        labels = [head.labels for head in student.heads.values() if head.labels is not None]
        return torch.stack([(own != IGNORED).sum() for own in labels]).sum()

    def forward(self, student: Outputs, teacher: Outputs | None = None) -> Tensor:
        """Mean over the heads of ``hard_label_loss``."""
        losses = []
        for name, head in student.heads.items():
            if head.labels is None:
                raise ValueError(
                    f"HardLabelLoss: head {name!r} has no labels; train on labelled rows or remove this loss"
                )
            losses.append(hard_label_loss(head.logits, head.labels, self.label_smoothing, head.mask))
        return mean_over_heads(losses)
