"""Transfer distributions over tokens from one tokenization to another."""

import torch
from torch import Tensor


def transfer_token_probabilities(logits: Tensor, mask: Tensor, target_index: Tensor, num_target_tokens: int) -> Tensor:
    """Sum token probabilities onto the aligned tokens of another tokenization.

    A target token without an aligned token gets the lowest probability among the other target tokens, because a
    probability of 0 would have an infinite logit.

    Args:
        logits: (N, L), any floating dtype; computed in float32.
        mask: (N, L), True = included.
        target_index: Index of the target token aligned with each token, (N, L); negative = none: its probability is
            dropped.
        num_target_tokens: Number of target tokens, M.

    Returns:
        Log-probabilities, (N, M), float32.
    """
    log_p = logits.float().masked_fill(~mask, -torch.inf).log_softmax(dim=-1).masked_fill(target_index < 0, -torch.inf)
    target_index = target_index.clamp(min=0)
    highest = log_p.new_full((len(log_p), num_target_tokens), -torch.inf).scatter_reduce(1, target_index, log_p, "amax")
    has_source = highest > -torch.inf
    # relative to the highest of each target token, because small probabilities would underflow
    shares = (log_p - highest.masked_fill(~has_source, 0.0).gather(1, target_index)).exp()
    sums = torch.zeros_like(highest).scatter_add(1, target_index, shares)
    target_log_probs = highest + sums.clamp(min=1.0).log()
    lowest = target_log_probs.masked_fill(~has_source, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(has_source, target_log_probs, lowest)
