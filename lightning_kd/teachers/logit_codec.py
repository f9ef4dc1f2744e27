"""Encode the logits of an example as bytes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

StorageDtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class LogitCodec:
    """Encodes all logits, or the largest ones and one value for the others.

    Attributes:
        dtype: Precision of the stored logits.
        top_k: Number of logits stored per distribution. The others are replaced by one value that leaves the
            probabilities of the stored classes unchanged at temperature 1. None = all are stored.
    """

    dtype: StorageDtype = "float32"
    top_k: int | None = None

    def encode(self, logits: NDArray[np.float32]) -> bytes:
        """Encode the logits of one example, (heads, distributions, classes)."""
        num_classes = logits.shape[-1]
        if self.top_k is None or self.top_k >= num_classes:
            return logits.astype(self.dtype).tobytes()
        order = np.argpartition(logits, num_classes - self.top_k, axis=-1)
        others, kept = np.split(order, [num_classes - self.top_k], axis=-1)
        values, rest = (np.take_along_axis(logits, part, axis=-1) for part in (kept, others))
        highest = rest.max(axis=-1)
        mean = highest + np.log(np.exp(rest - highest[..., None]).mean(axis=-1))
        return b"".join(
            [kept.astype("<i4").tobytes(), mean.astype("<f4").tobytes(), values.astype(self.dtype).tobytes()]
        )

    def decode(
        self, blocks: NDArray[np.uint8], num_heads: int, num_distributions: int, num_classes: int
    ) -> NDArray[np.float32]:
        """Decode the logits of N examples of the same shape.

        Args:
            blocks: Encoded logits, (N, bytes), contiguous.
            num_heads: Number of heads.
            num_distributions: Number of distributions per example and head.
            num_classes: Number of classes.

        Returns:
            (N, heads, distributions, classes).
        """
        shape = (len(blocks), num_heads, num_distributions)
        if self.top_k is None or self.top_k >= num_classes:
            return blocks.view(self.dtype).reshape(*shape, num_classes).astype(np.float32)
        total = num_heads * num_distributions
        ends = np.cumsum([total * self.top_k * 4, total * 4])
        parts: list[Any] = [np.ascontiguousarray(part) for part in np.split(blocks, ends, axis=1)]
        kept, mean, values = parts[0].view("<i4"), parts[1].view("<f4"), parts[2].view(self.dtype)
        logits = np.repeat(mean.reshape(*shape, 1), num_classes, axis=-1)
        kept, values = (part.reshape(*shape, self.top_k) for part in (kept, values))
        np.put_along_axis(logits, kept, values.astype(np.float32), axis=-1)
        return logits
