"""Decoupled knowledge distillation: the target class against the others, and the others among themselves."""

import math

import torch
from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, check_temperature, mean_over_heads
from lightning_kd.losses.soft_target import divergence, sum_over_rows
from lightning_kd.outputs import IGNORE_INDEX, Head, Outputs


def decoupled_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    target_weight: float = 1.0,
    nontarget_weight: float = 8.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Forward KL taken apart at the target class, times T², mean over the rows that have a label.

    .. math::
        T^2\,(\alpha\,KL(b^t \| b^s) + \beta\,KL(\hat p^t \| \hat p^s))

    where b are the probabilities of the target and of all others together, and p̂ those of the others among themselves.
    Weights of 1 and 1 - p_target of the teacher would be the plain KL, which hardly looks at the others where the
    teacher is sure. Zhao et al. 2022, Decoupled Knowledge Distillation, equation 7.

    Args:
        student_logits: (N, C), any floating dtype; computed in float32 log-space.
        teacher_logits: (N, C).
        labels: (N,), class indices; -100 drops the row.
        temperature: T > 0; divides both logits.
        target_weight: Of the target class, alpha >= 0.
        nontarget_weight: Of the others, beta >= 0.
        mask: (N, C), True = the class counts; None = all of them. A label must not point at a masked class.

    Returns:
        Float32 scalar; 0 with zero gradient if no row is left.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[5.0, 1.0, 0.0]])  # agree on the others
        >>> decoupled_kd_loss(student, teacher, torch.tensor([0]), target_weight=0.0, nontarget_weight=1.0)
        tensor(0.)
    """
    keep = labels != IGNORE_INDEX if mask is None else (labels != IGNORE_INDEX) & mask.any(dim=-1)
    student_logits, teacher_logits, target = (z[keep] for z in (student_logits, teacher_logits, labels.unsqueeze(-1)))
    class_mask = torch.ones_like(student_logits, dtype=torch.bool) if mask is None else mask[keep]

    def row_sum(student: Tensor, row_slice: slice) -> Tensor:
        student, teacher = (z.float() / temperature for z in (student, teacher_logits[row_slice]))
        others = class_mask[row_slice].scatter(-1, target[row_slice], False)
        target_kl = divergence(
            _target_vs_rest_logits(others, student, target[row_slice]),
            _target_vs_rest_logits(others, teacher, target[row_slice]),
        )
        # without any others the target is alone, and there is nothing to diverge
        compared = torch.where(others.any(dim=-1, keepdim=True), others, class_mask[row_slice])
        nontarget_kl = divergence(student, teacher, mask=compared)
        return (target_weight * target_kl + nontarget_weight * nontarget_kl).sum()

    total = sum_over_rows(student_logits, teacher_logits, row_sum)
    return total / max(len(student_logits), 1) * temperature**2


def _target_vs_rest_logits(others: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """The target's logit and that of all others together, (N, 2)."""
    # not -inf: where there are no others, their gradient would be NaN
    rest = logits.masked_fill(~others, torch.finfo(logits.dtype).min).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logits.gather(-1, target), rest], dim=-1)


class DecoupledKDLoss(DistillationLoss):
    """Distance from the teacher's soft targets, the target class and the others weighed apart.

    The paper's weights are 1 and 8 for CIFAR-100, 1 and 0.5 for ImageNet (at temperature 1): the surer the teacher, the
    larger ``nontarget_weight``. The official code lets the weight rise from 0 over the first epochs, as the
    schedule ``weight: {start: 0, end: 1, until: 0.1}`` does.

    Args:
        weight: Factor of this loss in the total, >= 0.
        temperature: Divides both logits, > 0.
        target_weight: Weight of the target class against all others, >= 0.
        nontarget_weight: Weight of the others among themselves, >= 0.
        pseudo_labels: Let the teacher's most likely class be the target of rows without a label; else these are left
            out.

    Raises:
        ValueError: If an argument is out of range; on use, if the batch has no labels and ``pseudo_labels`` is False.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        nontarget_weight: float = 8.0,
        pseudo_labels: bool = False,
    ) -> None:
        super().__init__(weight)
        check_temperature(temperature, type(self).__name__)
        self.temperature = temperature
        for name, value in (("target_weight", target_weight), ("nontarget_weight", nontarget_weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"DecoupledKDLoss: {name} must be a finite number >= 0, got {value}")
        self.target_weight = target_weight
        self.nontarget_weight = nontarget_weight
        self.pseudo_labels = pseudo_labels

    def num_elements(self, student: Outputs) -> Tensor:
        """The rows that have a target."""
        labels = [head.labels for head in student.heads.values() if head.labels is not None]
        if self.pseudo_labels or not labels:
            return super().num_elements(student)
        return torch.stack([(head_labels != IGNORE_INDEX).sum() for head_labels in labels]).sum()

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Mean over the heads of ``decoupled_kd_loss``."""
        assert teacher is not None  # promised by requires_teacher
        losses = []
        for name, (student_head, teacher_head) in zip(student.heads, student.zip_heads(teacher), strict=True):
            labels = student_head.labels
            if self.pseudo_labels:
                guess = Head(teacher_head.logits, mask=student_head.mask).prediction
                labels = guess if labels is None else torch.where(labels == IGNORE_INDEX, guess, labels)
            if labels is None:
                raise ValueError(
                    f"DecoupledKDLoss: head {name!r} has no labels, and the target class is one; train on labelled "
                    "rows, set pseudo_labels, or use SoftTargetLoss"
                )
            losses.append(
                decoupled_kd_loss(
                    student_head.logits,
                    teacher_head.logits,
                    labels,
                    self.temperature,
                    self.target_weight,
                    self.nontarget_weight,
                    student_head.mask,
                )
            )
        return mean_over_heads(losses)
