"""Training examples that are read and tokenized during training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from torch.utils.data import IterableDataset

from lightning_kd.data.readers import Columns, Row

ENCODE_BATCH_SIZE = 1000
"""Number of texts tokenized together."""


@dataclass(eq=False)
class StreamingTextDataset(IterableDataset[Columns]):
    """Batches of examples from a source of texts, shuffled within a buffer.

    Each device takes every n-th example. The order depends on seed and epoch only, so a resumed run reads the texts
    again up to its position. Each ``iter`` advances to the next epoch.

    Args:
        texts: Returns a new iterator over the texts.
        encode: Tokenizes a batch of texts, as ``TextDataModule.encode`` does.
        batch_size: Examples per batch and device.
        buffer_size: Number of examples shuffled together.
        seed: Seed, the same on all devices.
        num_replicas: Number of devices.
        rank: Index of this device, in [0, num_replicas).
    """

    texts: Callable[[], Iterator[str]]
    encode: Callable[[Columns], Columns]
    batch_size: int
    buffer_size: int
    seed: int
    num_replicas: int
    rank: int
    epoch: int = field(default=0, init=False)
    skip_batches: int = field(default=0, init=False)

    def set_state(self, epoch: int, skip_batches: int) -> None:
        """Set the epoch of the next ``iter`` and the number of batches to skip."""
        self.epoch, self.skip_batches = epoch, skip_batches

    def __iter__(self) -> Iterator[Columns]:
        """Yield batches by column, with ``epoch`` and ``row_id``, the example's index in the epoch's order.

        Raises:
            ValueError: If there are fewer examples than one batch on each device.
        """
        epoch, skip = self.epoch, self.skip_batches
        self.epoch, self.skip_batches = epoch + 1, 0
        step = self.batch_size * self.num_replicas
        examples = enumerate(self._iter_shuffled(epoch))
        empty = True
        while len(group := list(islice(examples, step))) == step:  # all devices must have the same number of batches
            empty = False
            if skip:
                skip -= 1
                continue
            local = group[self.rank :: self.num_replicas]
            columns: Columns = {name: [row[name] for _, row in local] for name in local[0][1]}
            columns["row_id"] = [index for index, _ in local]
            columns["epoch"] = [epoch] * len(local)
            yield columns
        if empty:
            raise ValueError(
                f"data.batch_size: the training texts have fewer examples than a batch of {self.batch_size} on each "
                f"of {self.num_replicas} devices; lower it, or set data.streaming to false"
            )

    def _iter_shuffled(self, epoch: int) -> Iterator[Row]:
        generator = np.random.default_rng([self.seed, epoch])
        buffer: list[Row] = []
        for row in self._iter_encoded():
            if len(buffer) < self.buffer_size:
                buffer.append(row)
                continue
            index = int(generator.integers(self.buffer_size))
            buffer[index], chosen = row, buffer[index]
            yield chosen
        generator.shuffle(buffer)
        yield from buffer

    def _iter_encoded(self) -> Iterator[Row]:
        texts = self.texts()
        while chunk := list(islice(texts, ENCODE_BATCH_SIZE)):
            columns = self.encode({"text": chunk})
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))
