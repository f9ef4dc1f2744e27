"""Divergence of the student's and the teacher's softened distributions."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_kd.losses.base import (
    DistillationLoss,
    check_logits,
    check_temperature,
    drop_masked_targets,
    masked_log_softmax,
    mean_of_losses,
)
from lightning_kd.losses.chunked import RowSumFn, chunked_sum, refuse_second_derivative
from lightning_kd.losses.logit_transforms import merge_tail_classes, standardize_logits
from lightning_kd.outputs import Outputs


def _log_mixture_ratio(log_ratio: Tensor, weight: float, rest: float) -> Tensor:
    """Compute log(rest + weight * exp(log_ratio)), where rest = 1 - weight, to full precision in float32.

    Uses log1p near log_ratio = 0, where the result is near 0. Uses logaddexp elsewhere: expm1 overflows for large
    ratios, and for small ratios with a weight near 1 the rest is lost in rounding.
    """
    low = -1.0 if weight > 0.5 else -math.inf
    near = torch.log1p(weight * torch.expm1(log_ratio.clamp(low, 10.0)))
    far = torch.logaddexp(torch.full_like(log_ratio, math.log(rest)), log_ratio + math.log(weight))
    return torch.where((low < log_ratio) & (log_ratio < 10.0), near, far)


class _ForwardKL(torch.autograd.Function):
    """KL(p || q) of each target, (N,), with the closed form of its gradient at the student's logits: (q - p) / T.

    Needs half as many passes over the classes as autograd, which matters for large vocabularies.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Any) -> Tensor:
        log_q = masked_log_softmax(student_logits.float() / temperature, mask)
        log_p = masked_log_softmax(teacher_logits.float() / temperature, mask)
        difference = log_p - log_q
        if mask is not None:
            difference.masked_fill_(~mask, 0.0)
        p = log_p.exp_()
        ctx.slope = log_q.exp_().sub_(p)
        ctx.temperature, ctx.dtype = temperature, student_logits.dtype
        return p.mul_(difference).add_(ctx.slope).sum(dim=-1)  # as in divergence: q - p sums to 0

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        refuse_second_derivative()
        return (ctx.slope * (grad_outputs[0] / ctx.temperature).unsqueeze(-1)).to(ctx.dtype), None, None, None


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    beta: float = 0.0,
    mask: Tensor | None = None,
    standardize: bool = False,
    top_k: int | None = None,
) -> Tensor:
    r"""Compute the divergence of the softened distributions p (teacher) and q (student), times T², mean over targets.

    With ``beta = 0`` the forward KL divergence of Hinton et al. 2015 (section 2), with ``beta = 1`` the reverse KL
    divergence, between them the generalized Jensen-Shannon divergence of Agarwal et al. 2024 (On-Policy Distillation,
    equation 1), divided by its curvature so that it is continuous at both ends:

    .. math::
        \frac{\beta\,KL(p \| m) + (1 - \beta)\,KL(q \| m)}{\beta (1 - \beta)} \cdot T^2,
        \quad m = \beta p + (1 - \beta) q

    Large inputs (vocabularies) are computed in chunks, so that only the gradient is kept for all targets, in the dtype
    of the student's logits, instead of about ten intermediate results in float32.

    Args:
        student_logits: (N, C), any floating dtype; computed in float32 log-space.
        teacher_logits: (N, C).
        temperature: T > 0; divides both logits. T² makes the scale of the gradient independent of T.
        beta: In [0, 1]; 0 = forward KL, 1 = reverse KL.
        mask: (N, C), True = included; a masked class has probability exactly 0 in both. None = all.
        standardize: If True, compare z-scores of the logits (``standardize_logits``), so that the student need not
            match the teacher's spread; ``temperature`` is then the base temperature of Sun et al. 2024, algorithm 2.
        top_k: Keep the teacher's k most likely classes of each target and merge all others into one
            (``merge_tail_classes``). None = keep all.

    Returns:
        Float32 scalar; 0 with zero gradient if there is no target.

    Raises:
        ValueError: If a shape or the temperature is wrong.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> soft_target_loss(student, teacher, temperature=2.0)
        tensor(0.)
    """
    check_logits("soft_target_loss", student_logits, teacher_logits, mask)
    check_temperature("soft_target_loss", temperature)
    if mask is not None:
        mask, student_logits, teacher_logits = drop_masked_targets(mask, student_logits, teacher_logits)

    def row_sum(student: Tensor, row_slice: slice) -> Tensor:
        teacher, class_mask = teacher_logits[row_slice], None if mask is None else mask[row_slice]
        if standardize:
            student, teacher = standardize_logits(student, class_mask), standardize_logits(teacher, class_mask)
        if top_k is None or top_k >= student.shape[-1]:
            return divergence(student, teacher, temperature, beta, class_mask).sum()
        merged = merge_tail_classes(student.float() / temperature, teacher.float() / temperature, top_k, class_mask)
        return divergence(merged[0], merged[1], 1.0, beta, merged[2]).sum()

    return mean_over_targets(student_logits, teacher_logits, row_sum) * temperature**2


def mean_over_targets(student_logits: Tensor, teacher_logits: Tensor, row_sum: RowSumFn) -> Tensor:
    """Return ``chunked_sum`` over N; without chunks if the teacher also needs a gradient, as in mutual learning."""
    if teacher_logits.requires_grad:
        total = row_sum(student_logits, slice(None))
    else:
        total = chunked_sum(student_logits, row_sum)
    return total / max(len(student_logits), 1)


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    beta: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the divergence of each target, (N,), without T²; see ``soft_target_loss`` for the arguments."""
    if beta == 0 and not teacher_logits.requires_grad:
        forward_kl: Tensor = _ForwardKL.apply(  # type: ignore[no-untyped-call]
            student_logits, teacher_logits, temperature, mask
        )
        return forward_kl
    log_q = masked_log_softmax(student_logits.float() / temperature, mask)
    log_p = masked_log_softmax(teacher_logits.float() / temperature, mask)
    p, q = log_p.exp(), log_q.exp()
    if mask is not None:
        log_q, log_p = log_q.masked_fill(~mask, 0.0), log_p.masked_fill(~mask, 0.0)
    difference = log_p - log_q
    # A divergence is of second order in the difference of the distributions. Adding the first-order term p - q, whose
    # sum over the classes is 0, cancels rounding errors that T² and the division by beta(1 - beta) would amplify.
    if beta == 0:
        values = p * difference - (p - q)
    elif beta == 1:
        values = (p - q) - q * difference
    else:
        kl_p = (1 - beta) * (q - p) - p * _log_mixture_ratio(-difference, 1 - beta, beta)
        kl_q = beta * (p - q) - q * _log_mixture_ratio(difference, beta, 1 - beta)
        values = kl_p / (1 - beta) + kl_q / beta
    return values.sum(dim=-1)


class SoftTargetLoss(DistillationLoss):
    """Divergence of the student's distribution from the teacher's soft targets.

    Args:
        weight: Weight of this loss in the total, >= 0.
        temperature: Divides both logits, > 0. 1 keeps the teacher's probabilities; 2 to 20 soften them, so that the
            student also learns from the classes that the teacher considers wrong.
        beta: In [0, 1]; 0 = forward KL (Hinton), 0.5 = 4 x Jensen-Shannon, 1 = reverse KL.
        standardize: If True, divide the logits of each example by their standard deviation first, so that the student
            need not match the teacher's scale (Sun et al. 2024, who use a temperature of 2 and a weight of 9).
        top_k: Compare the teacher's k most likely classes, and all others merged into one; null = all classes.

    Raises:
        ValueError: If ``temperature`` is not > 0, ``beta`` is outside [0, 1] or ``top_k`` is below 1.
    """

    requires_classes = True

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 1.0,
        beta: float = 0.0,
        standardize: bool = False,
        top_k: int | None = None,
    ) -> None:
        super().__init__(weight)
        self._check_temperature(temperature)
        if not 0 <= beta <= 1:
            raise ValueError(f"SoftTargetLoss: beta must be in [0, 1], got {beta}; 0 is forward KL, 1 is reverse KL")
        if top_k is not None and top_k < 1:
            raise ValueError(f"SoftTargetLoss: top_k must be >= 1, got {top_k}; null compares all classes")
        self.temperature = temperature
        self.beta = beta
        self.standardize = standardize
        self.top_k = top_k

    def check_num_classes(self, num_classes: int, field: str) -> str | None:
        """Check that standardized logits differ between students."""
        if self.standardize and num_classes == 2:
            raise ValueError(
                f"{field}.standardize: two standardized logits are always 1 and -1, whatever the student predicts; set "
                "it to false, or use it with more classes"
            )
        return None

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``soft_target_loss`` over the heads."""
        return mean_of_losses(
            [
                soft_target_loss(s.logits, t.logits, self.temperature, self.beta, s.mask, self.standardize, self.top_k)
                for s, t in self._head_pairs(student, teacher)
            ]
        )
