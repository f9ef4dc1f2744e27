"""Orders of rows: batches of similar length, the same number of them on every device."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DistributedSampler

POOL_BATCHES = 50
"""Batches that are sorted by length together: enough to save most padding, few enough to keep epochs different."""


class LengthGroupedSampler(DistributedSampler[int]):
    """Random order in which the rows of a batch have similar lengths, on all devices at a step alike.

    Each epoch shuffles all rows, sorts pools of ``POOL_BATCHES`` batches by length, and shuffles the batches. The
    order depends on seed and epoch alone. It subclasses ``DistributedSampler`` so that Lightning leaves it alone and
    calls ``set_epoch``.

    Args:
        lengths: Length of each row, in tokens.
        batch_size: Rows of a batch on one device.
        num_replicas: Number of devices.
        rank: This device, in [0, num_replicas).
        seed: The same on all devices.
        encode_epoch: Give ``row + epoch * number of rows`` instead of ``row``, for whatever is drawn anew in each
            epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        num_replicas: int,
        rank: int,
        seed: int,
        encode_epoch: bool = False,
    ) -> None:
        super().__init__(lengths, num_replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.epoch_stride = len(self.lengths) if encode_epoch else 0
        self.skip_batches = 0
        self._epoch_set_by_loader = False

    def set_state(self, epoch: int, skip_batches: int) -> None:
        """Settle which epoch the next ``iter`` begins, and how many of its batches it leaves out."""
        self.epoch, self.skip_batches, self._epoch_set_by_loader = epoch, skip_batches, True

    def set_epoch(self, epoch: int) -> None:
        """Settle the epoch, unless the loader does: Lightning calls this with a count of its own, and later."""
        if not self._epoch_set_by_loader:
            super().set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        # not a generator: workers may ask for the iterator before the next set_epoch and read from it after
        indices = self._epoch_indices(self.epoch)[self.skip_batches * self.batch_size :]
        self.skip_batches = 0
        return iter([row + self.epoch * self.epoch_stride for row in indices] if self.epoch_stride else indices)

    def _epoch_indices(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        rows = torch.randperm(len(self.lengths), generator=generator)
        if self.total_size > len(rows):  # the same number of rows on each device: some come twice
            rows = rows.repeat(-(-self.total_size // len(rows)))[: self.total_size]
        step = self.batch_size * self.num_replicas
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in rows.split(step * POOL_BATCHES)]
        batches = [batch for pool in pools for batch in pool.split(step)]
        last = len(batches) - 1 if len(batches[-1]) < step else len(batches)  # a smaller batch comes last
        shuffled = torch.randperm(last, generator=generator).tolist() + list(range(last, len(batches)))
        return torch.cat([batches[b][self.rank :: self.num_replicas] for b in shuffled]).tolist()


class EvaluationSampler(DistributedSampler[int]):
    """All rows once, in batches of similar length, as many on each device.

    The longest rows come first, so that a batch that does not fit in memory fails at once; the other batches come in a
    fixed random order, so that the first few stand for all. Where the number of rows is no multiple of the number of
    devices, some devices get a padding row more: its index is ``~row``, a negative number.

    Args:
        lengths: Length of each row, in tokens.
        batch_size: Rows of a batch on one device.
        num_replicas: Number of devices.
        rank: This device, in [0, num_replicas).
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, num_replicas: int, rank: int) -> None:
        super().__init__(lengths, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        rows = self.lengths.argsort(descending=True, stable=True)
        padding = ~rows[-1:].repeat(self.total_size - len(rows))
        first, *others = torch.cat([rows, padding]).split(self.batch_size * self.num_replicas)
        last = [others.pop()] if others else []  # it may be smaller
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).tolist()
        batches = [first, *(others[batch] for batch in order), *last]
        return iter(torch.cat([batch[self.rank :: self.num_replicas] for batch in batches]).tolist())
