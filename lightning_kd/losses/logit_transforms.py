"""Transforms of logits before they are compared."""

import torch
from torch import Tensor


def merge_tail_classes(
    student_logits: Tensor, teacher_logits: Tensor, top_k: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keep the teacher's k most likely classes, and merge the others into one class, for student and teacher.

    The logit of the merged class is the logsumexp of the tail's logits, so its probability is the sum of the tail's
    probabilities. Dropping the tail, or spreading it over the top k, would bias the student (Anshumann et al. 2025,
    Sparse Logit Sampling). Divide the logits by the temperature before the call.

    Args:
        student_logits: (N, C), float32.
        teacher_logits: (N, C), float32; selects the classes.
        top_k: k, in [1, C).
        mask: (N, C), True = included; None = all.

    Returns:
        Student's and teacher's logits, (N, k + 1), and the mask, (N, k + 1) or None.

    Example:
        >>> student, teacher, _ = merge_tail_classes(torch.zeros(1, 3), torch.tensor([[0.0, 2.0, 1.0]]), 1)
        >>> student
        tensor([[0.0000, 0.6931]])
    """
    ranked = teacher_logits.detach() if mask is None else teacher_logits.detach().masked_fill(~mask, -torch.inf)
    top = ranked.topk(top_k, dim=-1).indices
    class_mask = torch.ones_like(ranked, dtype=torch.bool) if mask is None else mask
    rest = class_mask.scatter(-1, top, False)

    def merge(logits: Tensor) -> Tensor:
        return torch.cat([logits.gather(-1, top), masked_logsumexp(logits, rest)], dim=-1)

    merged_mask = None if mask is None else torch.cat([mask.gather(-1, top), rest.any(dim=-1, keepdim=True)], dim=-1)
    return merge(student_logits), merge(teacher_logits), merged_mask


def masked_logsumexp(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the logsumexp over the included classes, (N, 1); finite, with a zero gradient, if there are none."""
    # not -inf: its gradient would be NaN
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min).logsumexp(dim=-1, keepdim=True)


def standardize_logits(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Standardize logits to mean 0 and standard deviation 1 over the classes of each target.

    Sun et al. 2024, Logit Standardization in Knowledge Distillation, algorithm 1, with the population standard
    deviation (over K). The official code divides by K - 1, which amounts to another temperature.

    Args:
        logits: (N, C), any floating dtype; computed in float32.
        mask: (N, C), True = included; None = all.

    Returns:
        (N, C), float32; 0 at masked classes. If all logits of a target are equal, they become 0 and are only centered
        in the gradient, because there is no deviation to divide by.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 3.0]]))
        tensor([[-1.,  1.]])
    """
    logits = logits.float()
    if mask is None:
        count = logits.new_tensor(float(max(logits.shape[-1], 1)))
        centered = logits - logits.sum(dim=-1, keepdim=True) / count
    else:
        logits = logits.masked_fill(~mask, 0.0)  # masked logits may be infinite
        count = mask.sum(dim=-1, keepdim=True).clamp(min=1)
        centered = (logits - logits.sum(dim=-1, keepdim=True) / count).masked_fill(~mask, 0.0)
    variance = centered.square().sum(dim=-1, keepdim=True) / count
    # equal logits differ from their mean by rounding errors, and sqrt has an infinite gradient at 0
    constant = variance <= 1e-12 * logits.square().sum(dim=-1, keepdim=True) / count
    return centered / variance.masked_fill(constant, 1.0).sqrt()
