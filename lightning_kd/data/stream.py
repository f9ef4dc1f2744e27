"""Rows that are read and tokenised while training."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

Columns = dict[str, list[Any]]

ENCODE_BATCH_SIZE = 1000
"""Texts that are tokenised together."""


class StreamingTextDataset(IterableDataset[Columns]):
    """Batches of rows from a source of texts, shuffled within a buffer.

    Each device takes every n-th row. The order depends on seed and epoch alone, so a resumed run reads the texts again
    up to where it was.

    Args:
        texts: Opens the source.
        encode: Makes rows of texts, as a DataModule's ``encode``.
        batch_size: Rows of a batch on one device.
        buffer_size: Rows that are shuffled together.
        seed: The same on all devices.
        num_replicas: Number of devices.
        rank: This device, in [0, num_replicas).
    """

    def __init__(
        self,
        texts: Callable[[], Iterator[str]],
        encode: Callable[[Columns], Columns],
        batch_size: int,
        buffer_size: int,
        seed: int,
        num_replicas: int,
        rank: int,
    ) -> None:
        self.texts = texts
        self.encode = encode
        self.batch_size = batch_size
        self.buffer_size = buffer_size
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.skip_batches = 0

    def set_state(self, epoch: int, skip_batches: int) -> None:
        """Settle which epoch the next ``iter`` begins, and how many of its batches it leaves out."""
        self.epoch, self.skip_batches = epoch, skip_batches

    def __iter__(self) -> Iterator[Columns]:
        """Batches by column, with ``row_id``, a row's number in the epoch's order, and ``epoch``."""
        epoch, skip = self.epoch, self.skip_batches
        self.skip_batches = 0
        step = self.batch_size * self.num_replicas
        rows = enumerate(self._iter_shuffled(epoch))
        empty = True
        while len(group := list(islice(rows, step))) == step:  # so that all devices have as many batches
            empty = False
            if skip:
                skip -= 1
                continue
            local_rows = group[self.rank :: self.num_replicas]
            columns: Columns = {name: [row[name] for _, row in local_rows] for name in local_rows[0][1]}
            columns["row_id"] = [number for number, _ in local_rows]
            columns["epoch"] = [epoch] * len(local_rows)
            yield columns
        if empty:
            raise ValueError(
                f"data.batch_size: the training texts make fewer rows than a batch of {self.batch_size} on each of "
                f"{self.num_replicas} devices; lower it, or do without streaming"
            )

    def _iter_shuffled(self, epoch: int) -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng([self.seed, epoch])
        buffer: list[dict[str, Any]] = []
        for row in self._iter_rows():
            if len(buffer) < self.buffer_size:
                buffer.append(row)
                continue
            index = int(generator.integers(self.buffer_size))
            buffer[index], chosen = row, buffer[index]
            yield chosen
        generator.shuffle(buffer)
        yield from buffer

    def _iter_rows(self) -> Iterator[dict[str, Any]]:
        texts = self.texts()
        while chunk := list(islice(texts, ENCODE_BATCH_SIZE)):
            columns = self.encode({"text": chunk})
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))
