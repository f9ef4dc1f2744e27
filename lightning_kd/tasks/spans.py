"""Search for the best span, given start and end logits."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Spans(NamedTuple):
    """Best span of each example.

    Attributes:
        start: First position, (N,).
        end: Last position, (N,).
        score: Sum of the start and end logits, (N,), float32; -inf if no position is included.
    """

    start: Tensor
    end: Tensor
    score: Tensor


def best_spans(start_logits: Tensor, end_logits: Tensor, mask: Tensor, max_answer_length: int) -> Spans:
    """Return the span with the largest sum of start and end logits.

    The search covers all spans of at most ``max_answer_length`` positions, not only combinations of the best starts and
    ends. Among spans with equal scores it returns the first, and of those with the same start the shortest.

    Args:
        start_logits: (N, L), any floating dtype.
        end_logits: (N, L).
        mask: (N, L), True = the position may be part of an answer; these positions are consecutive.
        max_answer_length: Maximum length of a span, >= 1.

    Example:
        >>> start, end = torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[4.0, 1.0, 0.0]])
        >>> best_spans(start, end, torch.tensor([[True, True, True]]), max_answer_length=2)
        Spans(start=tensor([0]), end=tensor([0]), score=tensor([4.]))
    """
    longest = min(max_answer_length, start_logits.shape[1])
    starts = start_logits.float().masked_fill(~mask, -torch.inf)
    ends = functional.pad(end_logits.float().masked_fill(~mask, -torch.inf), (0, longest - 1), value=-torch.inf)
    # the best end for each start is the maximum over a window; double the width of the window until it is wide enough
    best, width = ends, 1
    while width < longest:
        step = min(width, longest - width)
        best, width = torch.maximum(best[:, :-step], best[:, step:]), width + step
    score, start = (starts + best).max(dim=1)
    window = start.unsqueeze(1) + torch.arange(longest, device=start.device)
    return Spans(start, start + ends.gather(1, window).argmax(dim=1), score)
