"""Cross-entropy with the true labels."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_kd.losses.base import (
    DistillationLoss,
    drop_masked_rows,
    masked_log_softmax,
    mean_over_heads,
    mean_over_rows,
)
from lightning_kd.losses.chunked import chunked_sum
from lightning_kd.outputs import IGNORE_INDEX, Head, Outputs


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
    labeled = labels != IGNORE_INDEX
    if mask is None:  # sum and count instead of a selection of rows, which would wait for a GPU

        def row_sum(rows: Tensor, row_slice: slice) -> Tensor:
            return cross_entropy(rows.float(), labels[row_slice], reduction="sum", label_smoothing=label_smoothing)

        return chunked_sum(logits, row_sum) / labeled.sum().clamp(min=1)
    mask, logits, labels = drop_masked_rows(mask[labeled], logits[labeled].float(), labels[labeled])
    log_probs = masked_log_softmax(logits, mask)
    loss = -log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    uniform = -log_probs.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)
    return mean_over_rows(torch.lerp(loss, uniform, label_smoothing))


class HardLabelLoss(DistillationLoss):
    """Cross-entropy of the student with the true labels.

    Args:
        weight: Factor of this loss in the total, >= 0.
        label_smoothing: Probability mass spread evenly over all classes, in [0, 1).
        tsa_threshold: Share alpha of the way from chance, 1 / K, to certainty; in training, rows whose label has a
            larger probability already are left out. 1 = none. Scheduled up to 1 (``loss_schedules``), it is training
            signal annealing, against overfitting few labels (Xie et al. 2020, UDA, section 2.4); the paper's three
            schedules are ``{start: 0, end: 1}``, the same with ``shape: saturating``, and
            ``{start: 0.0067, end: 1, shape: exponential}``.

    Raises:
        ValueError: If ``label_smoothing`` is outside [0, 1) or ``tsa_threshold`` outside [0, 1]; on use, if the batch
            has no labels.
    """

    requires_teacher = False

    def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0, tsa_threshold: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"HardLabelLoss: label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        if not 0 <= tsa_threshold <= 1:
            raise ValueError(
                f"HardLabelLoss: tsa_threshold must be in [0, 1], got {tsa_threshold}; 1 leaves no example out"
            )
        self.tsa_threshold = tsa_threshold

    def _active_labels(self, head: Head) -> Tensor | None:
        """The labels, -100 where the student is sure of them already; only in training."""
        if head.labels is None or self.tsa_threshold == 1 or not self.training:
            return head.labels
        log_p = masked_log_softmax(head.logits.detach().float(), head.mask)
        classes = log_p.shape[-1] if head.mask is None else head.mask.sum(dim=-1).clamp(min=1)
        threshold = self.tsa_threshold * (1 - 1 / classes) + 1 / classes
        above_threshold = log_p.gather(-1, head.labels.clamp(min=0).unsqueeze(-1)).squeeze(-1).exp() > threshold
        return head.labels.masked_fill(above_threshold, IGNORE_INDEX)

    def num_elements(self, student: Outputs) -> Tensor:
        """The rows with a label that count."""
        labels = [
            head_labels for head in student.heads.values() if (head_labels := self._active_labels(head)) is not None
        ]
        return torch.stack([(head_labels != IGNORE_INDEX).sum() for head_labels in labels]).sum()

    def forward(self, student: Outputs, teacher: Outputs | None = None) -> Tensor:
        """Mean over the heads of ``hard_label_loss``."""
        losses = []
        for name, head in student.heads.items():
            labels = self._active_labels(head)
            if labels is None:
                raise ValueError(
                    f"HardLabelLoss: head {name!r} has no labels; train on labelled rows or remove this loss"
                )
            losses.append(hard_label_loss(head.logits, labels, self.label_smoothing, head.mask))
        return mean_over_heads(losses)
