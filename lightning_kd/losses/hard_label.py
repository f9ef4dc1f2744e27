"""Cross-entropy with the true labels."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_kd.losses.base import (
    DistillationLoss,
    check_logits,
    drop_masked_targets,
    masked_log_softmax,
    mean_of_losses,
    mean_or_zero,
)
from lightning_kd.losses.chunked import chunked_sum
from lightning_kd.outputs import IGNORE_INDEX, Head, Outputs


def hard_label_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, mask: Tensor | None = None) -> Tensor:
    r"""Compute the cross-entropy with label smoothing, averaged over the labeled targets.

    .. math:: (1 - \varepsilon)\,(-\log p_y) + \varepsilon \cdot \frac{1}{K} \sum_{c \in kept} -\log p_c

    where K is the number of included classes of the target, so masked classes get no smoothing mass
    (label smoothing: Szegedy et al. 2016, Rethinking the Inception Architecture, section 7).

    Args:
        logits: (N, C), any floating dtype; computed in float32.
        labels: (N,), class indices; -100 = unlabeled.
        label_smoothing: epsilon in [0, 1).
        mask: (N, C), True = included; None = all. The label of a target must be included.

    Returns:
        Float32 scalar; 0 with zero gradient if there is no labeled target.

    Raises:
        ValueError: If a shape is wrong.

    Example:
        >>> hard_label_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """
    check_logits("hard_label_loss", logits, mask)
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"hard_label_loss: labels must have the shape {(len(logits),)}, got {tuple(labels.shape)}")
    labeled = labels != IGNORE_INDEX
    if mask is None:  # selecting the labeled targets instead of summing would synchronize with the GPU

        def row_sum(rows: Tensor, row_slice: slice) -> Tensor:
            return cross_entropy(rows.float(), labels[row_slice], reduction="sum", label_smoothing=label_smoothing)

        return chunked_sum(logits, row_sum) / labeled.sum().clamp(min=1)
    mask, logits, labels = drop_masked_targets(mask[labeled], logits[labeled].float(), labels[labeled])
    log_probs = masked_log_softmax(logits, mask)
    loss = -log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    uniform = -log_probs.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)
    return mean_or_zero(torch.lerp(loss, uniform, label_smoothing))


class HardLabelLoss(DistillationLoss):
    """Cross-entropy of the student with the true labels.

    Args:
        weight: Weight of this loss in the total, >= 0.
        label_smoothing: Probability mass spread evenly over all classes, in [0, 1).
        tsa_threshold: In training, ignore examples whose label already has a probability above
            1/K + tsa_threshold (1 - 1/K), for K classes; in [0, 1], 1 = ignore none. A schedule that rises to 1 gives
            training signal annealing, which prevents overfitting to few labels (Xie et al. 2020, UDA, section 2.4). The
            paper's schedules are ``{start: 0, end: 1}``, the same with ``shape: saturating``, and
            ``{start: 0.0067, end: 1, shape: exponential}``.

    Raises:
        ValueError: If an argument is out of range; on use, if the batch has no labels.
    """

    requires_teacher = False
    requires_classes = True

    def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0, tsa_threshold: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"HardLabelLoss: label_smoothing must be in [0, 1), got {label_smoothing}")
        if not 0 <= tsa_threshold <= 1:
            raise ValueError(f"HardLabelLoss: tsa_threshold must be in [0, 1], got {tsa_threshold}; 1 ignores none")
        self.label_smoothing = label_smoothing
        self.tsa_threshold = tsa_threshold

    def _active_labels(self, head: Head) -> Tensor | None:
        """Return the labels, in training with -100 for targets above ``tsa_threshold``."""
        if head.labels is None or self.tsa_threshold == 1 or not self.training:
            return head.labels
        log_p = masked_log_softmax(head.logits.detach().float(), head.mask)
        num_classes = log_p.shape[-1] if head.mask is None else head.mask.sum(dim=-1).clamp(min=1)
        threshold = self.tsa_threshold * (1 - 1 / num_classes) + 1 / num_classes
        above_threshold = log_p.gather(-1, head.labels.clamp(min=0).unsqueeze(-1)).squeeze(-1).exp() > threshold
        return head.labels.masked_fill(above_threshold, IGNORE_INDEX)

    def _num_targets(self, head: Head) -> Tensor:
        labels = self._active_labels(head)
        assert labels is not None  # forward raises without labels
        return (labels != IGNORE_INDEX).sum()

    def forward(self, student: Outputs, teacher: Outputs | None = None) -> Tensor:
        """Return the mean of ``hard_label_loss`` over the heads."""
        losses = []
        for name, head in self._heads(student).items():
            labels = self._active_labels(head)
            if labels is None:
                raise ValueError(f"HardLabelLoss: head {name!r} has no labels; use labeled data, or remove this loss")
            losses.append(hard_label_loss(head.logits, labels, self.label_smoothing, head.mask))
        return mean_of_losses(losses)
