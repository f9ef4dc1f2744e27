"""Sum over the rows of a matrix of logits, in chunks that bound the memory of intermediate results."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MIN_CHUNK_SIZE = 2**18
"""Minimum number of logits (rows x classes) per chunk: 1 MB in float32, which fits into a CPU cache."""

MAX_CHUNKS = 64
"""Maximum number of chunks, because each launches a dozen kernels; larger inputs have larger chunks."""

RowSumFn = Callable[[Tensor, slice], Tensor]
"""Maps rows of the student's logits, and their slice, to a scalar."""


def refuse_second_derivative() -> None:
    """Raise in a ``backward`` with a closed form if ``create_graph=True``, which would silently lose a part.

    Raises:
        RuntimeError: If autograd records the backward pass.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("this loss has no second derivative; call backward() or grad() without create_graph=True")


class _ChunkedSum(torch.autograd.Function):
    """Computes the gradient together with the value, chunk by chunk, and keeps only the gradient for all rows."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, row_sum: RowSumFn, chunk_rows: int) -> Tensor:
        # in float16 small entries would underflow before the gradient scaler of mixed precision multiplies them
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
        refuse_second_derivative()
        # in place, because a copy would double the memory; so backward can run only once
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("backward can run only once through a loss over a vocabulary; compute the loss again")
        return gradient.mul_(grad_outputs[0]).to(ctx.dtype), None, None


def chunked_sum(logits: Tensor, row_sum: RowSumFn) -> Tensor:
    """Return the sum over the rows, in at most ``MAX_CHUNKS`` chunks of at least about ``MIN_CHUNK_SIZE`` logits.

    Args:
        logits: The student's logits, (N, C).
        row_sum: Returns the sum over some of the rows; must treat rows independently.

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
