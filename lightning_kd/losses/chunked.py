"""A sum over rows whose intermediate results are kept for a few rows at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MIN_CHUNK_SIZE = 2**18
"""Logits (rows x classes) that are worked on together at least: 1 MB in float32, which a processor's cache holds."""

MAX_CHUNKS = 64
"""Parts into which larger inputs are cut at most: each starts a dozen kernels."""

RowSumFn = Callable[[Tensor, slice], Tensor]
"""Takes some rows of the student's logits and their place, and returns a scalar."""


class _ChunkedSum(torch.autograd.Function):
    """Works out the gradient with the value, chunk by chunk, so that only the gradient is kept for all rows."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, row_sum: RowSumFn, chunk_rows: int) -> Tensor:
        # in float16 small entries would be lost before the loss scale of mixed precision is applied to them
        grad_dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient, total = torch.empty_like(logits, dtype=grad_dtype), logits.new_zeros((), dtype=torch.float32)
        for start in range(0, len(logits), chunk_rows):
            row_slice = slice(start, start + chunk_rows)
            with torch.enable_grad():
                chunk = logits[row_slice].detach().to(grad_dtype).requires_grad_()
                value = row_sum(chunk, row_slice)
            (gradient[row_slice],) = torch.autograd.grad(value, chunk)
            total += value.detach()
        ctx.gradient, ctx.dtype = gradient, logits.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        # in place, and so once: a second copy would double what is kept
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("a loss over a vocabulary can go backward once only; compute it again")
        return gradient.mul_(grad_outputs[0]).to(ctx.dtype), None, None


def chunked_sum(logits: Tensor, row_sum: RowSumFn) -> Tensor:
    """Sum over the rows, in ``MAX_CHUNKS`` chunks or fewer, of at least about ``MIN_CHUNK_SIZE`` logits.

    Args:
        logits: (N, C), of the student.
        row_sum: The sum over some of the rows; must not mix rows.

    Returns:
        Float32 scalar.
    """
    chunk_rows = max(MIN_CHUNK_SIZE // max(logits.shape[-1], 1), -(-len(logits) // MAX_CHUNKS), 1)
    if len(logits) <= chunk_rows:
        return row_sum(logits, slice(None))
    if logits.requires_grad and torch.is_grad_enabled():
        total: Tensor = _ChunkedSum.apply(logits, row_sum, chunk_rows)  # type: ignore[no-untyped-call]
        return total
    slices = [slice(start, start + chunk_rows) for start in range(0, len(logits), chunk_rows)]
    return torch.stack([row_sum(logits[row_slice], row_slice) for row_slice in slices]).sum()
