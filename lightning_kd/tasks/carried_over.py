"""A distribution over the tokens of one encoding as one over those of another."""

import torch
from torch import Tensor


def carried_over(logits: Tensor, mask: Tensor, to: Tensor, size: int) -> Tensor:
    """Give each token of the other encoding the probability of all tokens that stand at its place.

    A token to which none belongs gets the probability of the least likely one that got some: with a probability of 0
    its logit would be infinite.

    Args:
        logits: (N, L), any floating dtype; computed in float32.
        mask: (N, L), True = the token counts.
        to: (N, L), which token of the other encoding each stands for; negative = none, what is there is lost.
        size: Tokens of the other encoding, M.

    Returns:
        Float32 logarithms of probabilities, (N, M).
    """
    log_p = logits.float().masked_fill(~mask, -torch.inf).log_softmax(dim=-1).masked_fill(to < 0, -torch.inf)
    to = to.clamp(min=0)
    highest = log_p.new_full((len(log_p), size), -torch.inf).scatter_reduce(1, to, log_p, "amax")
    got_some = highest > -torch.inf
    # relative to the highest that comes together: small probabilities would be 0
    shares = (log_p - highest.masked_fill(~got_some, 0.0).gather(1, to)).exp()
    sums = torch.zeros_like(highest).scatter_add(1, to, shares)
    carried = highest + sums.clamp(min=1.0).log()
    lowest = carried.masked_fill(~got_some, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(got_some, carried, lowest)
