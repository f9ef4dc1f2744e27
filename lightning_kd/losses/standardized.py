"""Logits with mean 0 and standard deviation 1 in each row."""

from torch import Tensor


def standardize_logits(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Z-score of each row over the classes that count.

    Sun et al. 2024, Logit Standardization in Knowledge Distillation, algorithm 1: the standard deviation is that of the
    population, over K. (The official code divides by K - 1, which is the same as another temperature.)

    Args:
        logits: (N, C), any floating dtype; computed in float32.
        mask: (N, C), True = the class counts; None = all of them.

    Returns:
        (N, C), float32; 0 where the class does not count. A row whose logits are all the same becomes 0, and its
        gradient is that of the logits less their mean: it has no deviation to be divided by.

    Example:
        >>> import torch
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
    # equal logits differ from their mean by rounding, and the root has no slope at 0
    constant = variance <= 1e-12 * logits.square().sum(dim=-1, keepdim=True) / count
    return centered / variance.masked_fill(constant, 1.0).sqrt()
