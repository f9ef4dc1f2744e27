"""A sum over rows whose intermediate results are kept for a few rows at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**18
"""Logits (rows x classes) that are worked on together at least: 1 MB in float32, which a processor's cache holds."""

PARTS = 64
"""Parts into which larger inputs are cut at most: each starts a dozen kernels."""

RowSum = Callable[[Tensor, slice], Tensor]
"""Takes some rows of the student's logits and their place, and returns a scalar."""


class _ChunkedSum(torch.autograd.Function):
    """Works out the gradient with the value, chunk by chunk, so that only the gradient is kept for all rows."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, row_sum: RowSum, rows: int) -> Tensor:
        # in float16 small entries would be lost before the loss scale of mixed precision is applied to them
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient, total = torch.empty_like(logits, dtype=kept), logits.new_zeros((), dtype=torch.float32)
        for start in range(0, len(logits), rows):
            place = slice(start, start + rows)
            with torch.enable_grad():
                chunk = logits[place].detach().to(kept).requires_grad_()
                value = row_sum(chunk, place)
            (gradient[place],) = torch.autograd.grad(value, chunk)
            total += value.detach()
        ctx.gradient, ctx.dtype = gradient, logits.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        # in place, and so once: a second copy would double what is kept
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("a loss over a vocabulary can go backward once only; compute it again")
        return gradient.mul_(outer[0]).to(ctx.dtype), None, None


def chunked_sum(logits: Tensor, row_sum: RowSum) -> Tensor:
    """Sum over the rows, in ``PARTS`` chunks or fewer, of at least about ``CHUNK`` logits.

    Args:
        logits: (N, C), of the student.
        row_sum: The sum over some of the rows; must not mix rows.

    Returns:
        Float32 scalar.
    """
    rows = max(CHUNK // max(logits.shape[-1], 1), -(-len(logits) // PARTS), 1)
    if len(logits) <= rows:
        return row_sum(logits, slice(None))
    if logits.requires_grad and torch.is_grad_enabled():
        total: Tensor = _ChunkedSum.apply(logits, row_sum, rows)  # type: ignore[no-untyped-call]
        return total
    places = [slice(start, start + rows) for start in range(0, len(logits), rows)]
    return torch.stack([row_sum(logits[place], place) for place in places]).sum()
