"""How the logits of a row become bytes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

StoredType = Literal["float32", "float16"]


@dataclass(frozen=True)
class Packing:
    """Logits as they are, or the largest of them and what the others have in common.

    Attributes:
        dtype: In which precision they are kept.
        top_k: Logits kept of each distribution; the others all become the one value that leaves the probability of
            each kept class, at temperature 1, as it was. None = all are kept.
    """

    dtype: StoredType = "float32"
    top_k: int | None = None

    def pack(self, logits: NDArray[np.float32]) -> bytes:
        """The bytes of the logits of one row, (heads, count, classes)."""
        classes = logits.shape[-1]
        if self.top_k is None or self.top_k >= classes:
            return logits.astype(self.dtype).tobytes()
        order = np.argpartition(logits, classes - self.top_k, axis=-1)
        others, kept = np.split(order, [classes - self.top_k], axis=-1)
        values, rest = (np.take_along_axis(logits, part, axis=-1) for part in (kept, others))
        highest = rest.max(axis=-1)
        mean = highest + np.log(np.exp(rest - highest[..., None]).mean(axis=-1))
        return b"".join(
            [kept.astype("<i4").tobytes(), mean.astype("<f4").tobytes(), values.astype(self.dtype).tobytes()]
        )

    def unpack(self, rows: NDArray[np.uint8], heads: int, count: int, classes: int) -> NDArray[np.float32]:
        """The logits of N rows that have as many distributions and classes.

        Args:
            rows: What ``pack`` made of each, (N, bytes), contiguous.
            heads: Number of heads.
            count: Distributions of a row and head.
            classes: Classes of each.

        Returns:
            (N, heads, count, classes).
        """
        shape = (len(rows), heads, count)
        if self.top_k is None or self.top_k >= classes:
            return rows.view(self.dtype).reshape(*shape, classes).astype(np.float32)
        distributions = heads * count
        ends = np.cumsum([distributions * self.top_k * 4, distributions * 4])
        parts: list[Any] = [np.ascontiguousarray(part) for part in np.split(rows, ends, axis=1)]
        kept, mean, values = parts[0].view("<i4"), parts[1].view("<f4"), parts[2].view(self.dtype)
        logits = np.repeat(mean.reshape(*shape, 1), classes, axis=-1)
        kept, values = (part.reshape(*shape, self.top_k) for part in (kept, values))
        np.put_along_axis(logits, kept, values.astype(np.float32), axis=-1)
        return logits
