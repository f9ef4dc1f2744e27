"""From the start and end logits of a text to its best span."""

from typing import NamedTuple

import torch
from torch import Tensor


class Spans(NamedTuple):
    """The best span of each row.

    Attributes:
        start: Its first position, (N,).
        end: Its last position, (N,).
        score: Sum of the two logits, (N,), float32; -inf where no position counts.
    """

    start: Tensor
    end: Tensor
    score: Tensor


def best_spans(start_logits: Tensor, end_logits: Tensor, mask: Tensor, max_answer_length: int) -> Spans:
    """The span with the largest sum of its start and end logit.

    Every start is combined with every end that is not before it and makes a span of at most ``max_answer_length``
    positions, so the result is the best of all spans, not of the best few starts and ends. All rows and starts are
    handled at once, for one length of the span after the other.

    Args:
        start_logits: (N, L), any floating dtype.
        end_logits: (N, L).
        mask: (N, L), True = the position may be part of an answer. These positions are consecutive.
        max_answer_length: Positions of the longest span, >= 1.

    Example:
        >>> start, end = torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[4.0, 1.0, 0.0]])
        >>> best_spans(start, end, torch.tensor([[True, True, True]]), max_answer_length=2)
        Spans(start=tensor([0]), end=tensor([0]), score=tensor([4.]))
    """
    starts = start_logits.float().masked_fill(~mask, -torch.inf)
    ends = end_logits.float().masked_fill(~mask, -torch.inf)
    length = starts.shape[1]
    best, more = starts + ends, torch.zeros_like(starts, dtype=torch.long)  # spans of one position
    for extent in range(1, min(max_answer_length, length)):
        sums = starts[:, : length - extent] + ends[:, extent:]
        current = best[:, : length - extent]
        more[:, : length - extent].masked_fill_(sums > current, extent)
        torch.maximum(current, sums, out=current)
    score, start = best.max(dim=1)
    return Spans(start, start + more.gather(1, start.unsqueeze(1)).squeeze(1), score)
