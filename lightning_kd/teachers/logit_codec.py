"""How the logits of a row become bytes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

StorageDtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class LogitCodec:
    """Logits as they are, or the largest of them and what the others have in common.

    Attributes:
        dtype: In which precision they are kept.
        top_k: Logits kept of each distribution; the others all become the one value that leaves the probability of
            each kept class, at temperature 1, as it was. None = all are kept.
    """

    dtype: StorageDtype = "float32"
    top_k: int | None = None

    def encode(self, logits: NDArray[np.float32]) -> bytes:
        """The bytes of the logits of one row, (heads, count, classes)."""
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
        self, rows: NDArray[np.uint8], num_heads: int, num_distributions: int, num_classes: int
    ) -> NDArray[np.float32]:
        """The logits of N rows that have as many distributions and classes.

        Args:
            rows: What ``encode`` made of each, (N, bytes), contiguous.
            num_heads: Number of heads.
            num_distributions: Distributions of a row and head.
            num_classes: Classes of each.

        Returns:
            (N, heads, count, classes).
        """
        shape = (len(rows), num_heads, num_distributions)
        if self.top_k is None or self.top_k >= num_classes:
            return rows.view(self.dtype).reshape(*shape, num_classes).astype(np.float32)
        total = num_heads * num_distributions
        ends = np.cumsum([total * self.top_k * 4, total * 4])
        parts: list[Any] = [np.ascontiguousarray(part) for part in np.split(rows, ends, axis=1)]
        kept, mean, values = parts[0].view("<i4"), parts[1].view("<f4"), parts[2].view(self.dtype)
        logits = np.repeat(mean.reshape(*shape, 1), num_classes, axis=-1)
        kept, values = (part.reshape(*shape, self.top_k) for part in (kept, values))
        np.put_along_axis(logits, kept, values.astype(np.float32), axis=-1)
        return logits
