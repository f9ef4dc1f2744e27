"""A distribution over the tokens of one encoding as one over those of another."""

import torch
from torch import Tensor


def transfer_token_probabilities(logits: Tensor, mask: Tensor, target_index: Tensor, num_target_tokens: int) -> Tensor:
    """Give each token of the other encoding the probability of all tokens that stand at its place.

    A token to which none belongs gets the probability of the least likely one that got some: with a probability of 0
    its logit would be infinite.

    Args:
        logits: (N, L), any floating dtype; computed in float32.
        mask: (N, L), True = the token counts.
        target_index: (N, L), which token of the other encoding each stands for; negative = none, what is there is lost.
        num_target_tokens: Tokens of the other encoding, M.

    Returns:
        Float32 logarithms of probabilities, (N, M).
    """
    log_p = logits.float().masked_fill(~mask, -torch.inf).log_softmax(dim=-1).masked_fill(target_index < 0, -torch.inf)
    target_index = target_index.clamp(min=0)
    highest = log_p.new_full((len(log_p), num_target_tokens), -torch.inf).scatter_reduce(1, target_index, log_p, "amax")
    has_source = highest > -torch.inf
    # relative to the highest that comes together: small probabilities would be 0
    shares = (log_p - highest.masked_fill(~has_source, 0.0).gather(1, target_index)).exp()
    sums = torch.zeros_like(highest).scatter_add(1, target_index, shares)
    target_log_probs = highest + sums.clamp(min=1.0).log()
    lowest = target_log_probs.masked_fill(~has_source, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(has_source, target_log_probs, lowest)
