"""Samplers of length-grouped batches, the same number of them on each device."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DistributedSampler

POOL_BATCHES = 50
"""Number of batches sorted by length together: enough to avoid most padding, few enough to vary between epochs."""


class LengthGroupedSampler(DistributedSampler[int]):
    """Random order in which the examples of a batch, and of a step across all devices, have similar lengths.

    Each epoch shuffles all examples, sorts pools of ``POOL_BATCHES`` batches by length, and shuffles the batches. The
    order depends on seed and epoch only, and each ``iter`` advances to the next epoch. The base class is
    ``DistributedSampler`` because Lightning does not replace such samplers and calls ``set_epoch``.

    Args:
        lengths: Number of tokens of each example.
        batch_size: Examples per batch and device.
        num_replicas: Number of devices.
        rank: Index of this device, in [0, num_replicas).
        seed: Seed, the same on all devices.
        encode_epoch: Yield ``row_id + epoch * number of examples`` instead of ``row_id``, for examples that change from
            epoch to epoch.
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
        """Set the epoch of the next ``iter`` and the number of batches to skip."""
        self.epoch, self.skip_batches, self._epoch_set_by_loader = epoch, skip_batches, True

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, unless ``set_state`` has: Lightning calls this later, and counts epochs differently."""
        if not self._epoch_set_by_loader:
            super().set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        # not a generator: with workers the iterator may be created before the next set_epoch and read after it
        epoch, skip = self.epoch, self.skip_batches
        indices = self._epoch_indices(epoch)[skip * self.batch_size :]
        self.epoch, self.skip_batches = epoch + 1, 0
        return iter([row_id + epoch * self.epoch_stride for row_id in indices] if self.epoch_stride else indices)

    def _epoch_indices(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        row_ids = torch.randperm(len(self.lengths), generator=generator)
        if self.total_size > len(row_ids):  # the same number of examples on each device: some are repeated
            row_ids = row_ids.repeat(-(-self.total_size // len(row_ids)))[: self.total_size]
        step = self.batch_size * self.num_replicas
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in row_ids.split(step * POOL_BATCHES)]
        batches = [batch for pool in pools for batch in pool.split(step)]
        last = len(batches) - 1 if len(batches[-1]) < step else len(batches)  # a smaller batch stays last
        shuffled = torch.randperm(last, generator=generator).tolist() + list(range(last, len(batches)))
        return torch.cat([batches[b][self.rank :: self.num_replicas] for b in shuffled]).tolist()


class EvaluationSampler(DistributedSampler[int]):
    """All examples once, in batches of similar length, the same number of batches on each device.

    The batch of the longest examples comes first, so that a run that does not fit in memory fails at once. The others
    follow in a fixed random order, so that the first few are representative. If the number of examples is not a
    multiple of the number of devices, some devices get an additional example as padding, with the negative index
    ``~row_id``.

    Args:
        lengths: Number of tokens of each example.
        batch_size: Examples per batch and device.
        num_replicas: Number of devices.
        rank: Index of this device, in [0, num_replicas).
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, num_replicas: int, rank: int) -> None:
        super().__init__(lengths, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        row_ids = self.lengths.argsort(descending=True, stable=True)
        padding = ~row_ids[-1:].repeat(self.total_size - len(row_ids))
        first, *others = torch.cat([row_ids, padding]).split(self.batch_size * self.num_replicas)
        last = [others.pop()] if others else []  # may be smaller
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).tolist()
        batches = [first, *(others[batch] for batch in order), *last]
        return iter(torch.cat([batch[self.rank :: self.num_replicas] for batch in batches]).tolist())
