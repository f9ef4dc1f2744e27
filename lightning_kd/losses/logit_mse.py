"""Mean squared error of logits."""

from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, check_logits, drop_masked_targets, mean_of_losses, mean_or_zero
from lightning_kd.outputs import Outputs


def logit_mse_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Compute the squared error of the logits, averaged over the included classes, then over targets.

    .. math:: \frac{1}{N} \sum_n \frac{1}{K_n} \sum_{c \in kept_n} (z^s_{nc} - z^t_{nc})^2

    Ba and Caruana 2014, Do Deep Nets Really Need to be Deep?, equation 1 (there with 1/2 in place of 1/K).

    Args:
        student_logits: (N, C), any floating dtype; computed in float32.
        teacher_logits: (N, C).
        mask: (N, C), True = included; None = all.

    Returns:
        Float32 scalar; 0 with zero gradient if there is no target.

    Raises:
        ValueError: If a shape is wrong.

    Example:
        >>> import torch
        >>> logit_mse_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(5.)
    """
    check_logits("logit_mse_loss", student_logits, teacher_logits, mask)
    if mask is None:
        return mean_or_zero((student_logits.float() - teacher_logits.float()).square().mean(dim=-1))
    mask, student_logits, teacher_logits = drop_masked_targets(mask, student_logits, teacher_logits)
    # masked logits may be infinite, and inf - inf is NaN: make them equal before subtracting
    student_logits, teacher_logits = (z.float().masked_fill(~mask, 0.0) for z in (student_logits, teacher_logits))
    return mean_or_zero((student_logits - teacher_logits).square().sum(dim=-1) / mask.sum(dim=-1))


class LogitMSELoss(DistillationLoss):
    """Mean squared error of the student's and the teacher's logits, for heads of any kind.

    Args:
        weight: Weight of this loss in the total, >= 0.
    """

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``logit_mse_loss`` over the heads."""
        pairs = self._head_pairs(student, teacher)
        return mean_of_losses([logit_mse_loss(s.logits, t.logits, s.mask) for s, t in pairs])
