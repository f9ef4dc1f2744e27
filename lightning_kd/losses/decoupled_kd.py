"""Decoupled knowledge distillation: the target class against the others, and the others among themselves."""

import torch
from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, check_logits, check_temperature, mean_of_losses
from lightning_kd.losses.logit_transforms import masked_logsumexp
from lightning_kd.losses.soft_target import divergence, mean_over_targets
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
    r"""Compute the forward KL divergence, decoupled at the target class, times T², averaged over labeled targets.

    .. math::
        T^2\,(\alpha\,KL(b^t \| b^s) + \beta\,KL(\hat p^t \| \hat p^s))

    where b are the probabilities of the target class and of all others together, and p̂ those of the others among
    themselves. Weights of 1 and 1 - p_target of the teacher would give the plain KL divergence, which hardly depends on
    the others if the teacher is confident. Zhao et al. 2022, Decoupled Knowledge Distillation, equation 7.

    Args:
        student_logits: (N, C), any floating dtype; computed in float32 log-space.
        teacher_logits: (N, C).
        labels: (N,), class indices; -100 = unlabeled.
        temperature: T > 0; divides both logits.
        target_weight: Weight alpha >= 0 of the target class.
        nontarget_weight: Weight beta >= 0 of the others.
        mask: (N, C), True = included; None = all. The label of a target must be included.

    Returns:
        Float32 scalar; 0 with zero gradient if there is no labeled target.

    Raises:
        ValueError: If a shape or the temperature is wrong.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[5.0, 1.0, 0.0]])  # equal for the others
        >>> decoupled_kd_loss(student, teacher, torch.tensor([0]), target_weight=0.0, nontarget_weight=1.0)
        tensor(0.)
    """
    check_logits("decoupled_kd_loss", student_logits, teacher_logits, mask)
    check_temperature("decoupled_kd_loss", temperature)
    keep = labels != IGNORE_INDEX if mask is None else (labels != IGNORE_INDEX) & mask.any(dim=-1)
    student_logits, teacher_logits, target = (z[keep] for z in (student_logits, teacher_logits, labels.unsqueeze(-1)))
    class_mask = torch.ones_like(student_logits, dtype=torch.bool) if mask is None else mask[keep]

    def row_sum(student: Tensor, row_slice: slice) -> Tensor:
        student, teacher = (z.float() / temperature for z in (student, teacher_logits[row_slice]))
        others = class_mask[row_slice].scatter(-1, target[row_slice], False)
        pairs = [
            torch.cat([z.gather(-1, target[row_slice]), masked_logsumexp(z, others)], dim=-1)
            for z in (student, teacher)
        ]
        target_kl = divergence(pairs[0], pairs[1])
        # if the target is the only class, compare it with itself: the divergence is 0
        compared = torch.where(others.any(dim=-1, keepdim=True), others, class_mask[row_slice])
        nontarget_kl = divergence(student, teacher, mask=compared)
        return (target_weight * target_kl + nontarget_weight * nontarget_kl).sum()

    return mean_over_targets(student_logits, teacher_logits, row_sum) * temperature**2


class DecoupledKDLoss(DistillationLoss):
    """Decoupled KL divergence from the teacher: the target class and the others have separate weights.

    The paper's weights are 1 and 8 for CIFAR-100, and 1 and 0.5 for ImageNet (at temperature 1): the more confident the
    teacher, the larger ``nontarget_weight``. The official code increases the weight from 0 over the first epochs, as
    ``loss_schedules: {<name>: {weight: {start: 0, end: 1, until: 0.1}}}`` does.

    Args:
        weight: Weight of this loss in the total, >= 0.
        temperature: Divides both logits, > 0.
        target_weight: Weight of the target class against all others, >= 0.
        nontarget_weight: Weight of the others among themselves, >= 0.
        pseudo_labels: If True, unlabeled examples have the teacher's most likely class as target; else they are
            ignored.

    Raises:
        ValueError: If an argument is out of range; on use, if the batch has no labels and ``pseudo_labels`` is False.
    """

    requires_classes = True

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        nontarget_weight: float = 8.0,
        pseudo_labels: bool = False,
    ) -> None:
        super().__init__(weight)
        self._check_temperature(temperature)
        self._check_nonnegative(target_weight=target_weight, nontarget_weight=nontarget_weight)
        self.temperature = temperature
        self.target_weight = target_weight
        self.nontarget_weight = nontarget_weight
        self.pseudo_labels = pseudo_labels

    def check_num_classes(self, num_classes: int, field: str) -> str | None:
        """Warn if the part of the other classes is constant."""
        if not self.nontarget_weight or num_classes != 2:
            return None
        return f"{field}.nontarget_weight: of two classes only one is no target, so this part is 0; set it to 0"

    def _num_targets(self, head: Head) -> Tensor | int:
        if self.pseudo_labels or head.labels is None:
            return super()._num_targets(head)
        return (head.labels != IGNORE_INDEX).sum()

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``decoupled_kd_loss`` over the heads."""
        arguments = (self.temperature, self.target_weight, self.nontarget_weight)
        losses = []
        for name, (head, teacher_head) in zip(student.heads, self._head_pairs(student, teacher), strict=True):
            labels = head.labels
            if self.pseudo_labels:
                pseudo_labels = Head(teacher_head.logits, mask=head.mask).prediction
                labels = pseudo_labels if labels is None else torch.where(labels == IGNORE_INDEX, pseudo_labels, labels)
            if labels is None:
                raise ValueError(
                    f"DecoupledKDLoss: head {name!r} has no labels; use labeled data, set pseudo_labels, or use "
                    "SoftTargetLoss"
                )
            losses.append(decoupled_kd_loss(head.logits, teacher_head.logits, labels, *arguments, head.mask))
        return mean_of_losses(losses)
