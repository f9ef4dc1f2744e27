"""From the start and end logits of a text to its best span."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


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
    positions, so the result is the best of all spans, not of the best few starts and ends. Of equal ones it is the
    first and the shortest.

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
    longest = min(max_answer_length, start_logits.shape[1])
    starts = start_logits.float().masked_fill(~mask, -torch.inf)
    ends = functional.pad(end_logits.float().masked_fill(~mask, -torch.inf), (0, longest - 1), value=-torch.inf)
    # the best end for each start is a maximum over a window, whose width is doubled until it is wide enough
    best, width = ends, 1
    while width < longest:
        step = min(width, longest - width)
        best, width = torch.maximum(best[:, :-step], best[:, step:]), width + step
    score, start = (starts + best).max(dim=1)
    window = start.unsqueeze(1) + torch.arange(longest, device=start.device)
    return Spans(start, start + ends.gather(1, window).argmax(dim=1), score)
