"""How the predictions of several teachers become one."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_kd.losses.base import masked_log_softmax

CombineMode = Literal["logits", "probabilities", "confidence"]
"""What is averaged; with ``confidence`` the probabilities, by weights of each row."""

COMBINE_MODES: tuple[str, ...] = get_args(CombineMode)


def combine_logits(logits: list[Tensor], mask: Tensor | None, combine: CombineMode) -> Tensor:
    r"""One distribution out of K.

    ``logits`` is their geometric mean, ``probabilities`` their arithmetic mean (Hinton et al. 2015, section 1), whose
    logarithms are returned: a temperature softens the mean. ``confidence`` is an arithmetic mean in which a network
    counts for less in a row where its own distribution has a higher entropy H (nats):

    .. math:: w_k = \frac{1}{K - 1} \left(1 - \frac{\exp H_k}{\sum_j \exp H_j}\right)

    Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, equation 3, with the entropy in place of
    the cross-entropy with the label, so that rows need none.

    Args:
        logits: K >= 1 tensors (N, C), any floating dtype; computed in float32.
        mask: (N, C), True = the class counts; None = all.
        combine: What to average.

    Returns:
        Float32 logits (N, C); of masked classes the lowest of all.
    """
    if combine == "logits":
        return torch.stack([one.float() for one in logits]).mean(dim=0)
    # a row without any class that counts would be all -inf
    class_mask = None if mask is None else mask | ~mask.any(dim=-1, keepdim=True)
    log_p = torch.stack([masked_log_softmax(one.float(), class_mask) for one in logits])
    if combine == "confidence" and len(logits) > 1:
        entropy = -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=-1)  # 0 log 0 = 0
        weights = (1 - entropy.softmax(dim=0)) / (len(logits) - 1)
        log_p = log_p + weights.log().unsqueeze(-1)
        mean = torch.logsumexp(log_p, dim=0)
    else:
        mean = torch.logsumexp(log_p, dim=0) - torch.log(torch.tensor(float(len(logits))))
    # finite, so that whatever is done with what does not count is, too
    lowest = mean.masked_fill(mean == -torch.inf, torch.inf).amin(dim=-1, keepdim=True)
    return torch.maximum(mean, lowest)
