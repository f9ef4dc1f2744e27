"""A training DataLoader that resumes within an epoch, and its dataset."""

from collections.abc import Sequence
from typing import Any, Protocol

import datasets
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_kd.data.readers import Columns


class TokenizedDataset(Dataset[dict[str, Any]]):
    """The examples of a tokenized split, fetched batch by batch.

    Args:
        dataset: Tokenized split.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Columns:
        """Return the columns of examples, with ``row_id`` and ``epoch``.

        Args:
            indices: ``row_id + epoch * len(self)`` for an example; ``~row_id`` for an example that only pads a batch
                and gets the ``row_id`` -1.
        """
        size = len(self.dataset)
        columns: Columns = self.dataset[[index % size if index >= 0 else ~index for index in indices]]
        columns["row_id"] = [index % size if index >= 0 else -1 for index in indices]
        columns["epoch"] = [max(index, 0) // size for index in indices]
        return columns


Position = dict[str, int]
"""Position of a loader: ``epoch``, and the number of finished ``batches`` of that epoch."""


class ResumableSampler(Protocol):
    """A sampler or stream that can skip the first batches of an epoch, and advances by one epoch at each ``iter``."""

    epoch: int
    skip_batches: int

    def set_state(self, epoch: int, skip_batches: int) -> None:
        """Set the epoch of the next ``iter`` and the number of batches to skip."""


class ResumableDataLoader(DataLoader[Any]):
    """A training DataLoader whose position is saved in checkpoints.

    The position is derived from the trainer's count of batches, because workers prefetch. The loader counts epochs
    itself: if a run with ``max_steps`` is resumed at the end of an epoch, Lightning (2.6) starts an epoch twice, first
    without a batch, and counts both.

    Without a trainer, in a plain PyTorch loop, each ``iter`` is the next epoch in another order, unless the loop calls
    ``sampler.set_epoch``; the position is then right between epochs only.

    Args:
        trainer: The trainer that iterates over the loader; None if there is none.
        resumable_sampler: The sampler, or the dataset if it is a stream.
        position: Position to start at, as returned by ``state_dict``.
        kwargs: Arguments of ``DataLoader``.
    """

    def __init__(
        self, trainer: Trainer | None, resumable_sampler: ResumableSampler, position: Position, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._trainer = trainer
        self._resumable_sampler = resumable_sampler
        self._batches_at_start: int | None = None
        self.load_state_dict(position)

    def __iter__(self) -> Any:
        """Start the next epoch, or the same one again if no batch of it was used."""
        if self._trainer is not None:
            is_unused = self._batches_at_start is None or self._num_started_batches() == 0
            self._position = self.state_dict() if is_unused else self._next_epoch()
            self._batches_at_start = self._trainer.fit_loop.epoch_loop.batch_progress.total.ready
            self._resumable_sampler.set_state(self._position["epoch"], self._position["batches"])
        return super().__iter__()

    def _num_started_batches(self) -> int:
        """Return the number of batches that the trainer has started since the last ``iter``."""
        assert self._trainer is not None
        total: int = self._trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return 0 if self._batches_at_start is None else total - self._batches_at_start

    def _next_epoch(self) -> Position:
        return {"epoch": self._position["epoch"] + 1, "batches": 0}

    def state_dict(self) -> Position:
        """Return the epoch and the number of its finished batches."""
        if self._trainer is None:
            return {"epoch": self._resumable_sampler.epoch, "batches": self._resumable_sampler.skip_batches}
        used = self._num_started_batches()
        if used and self._trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return self._next_epoch()
        return {"epoch": self._position["epoch"], "batches": self._position["batches"] + used}

    def load_state_dict(self, state: Position) -> None:
        """Set the position. Lightning calls this before ``iter``, but only within an epoch."""
        self._position, self._batches_at_start = dict(state), None
        if self._trainer is None:
            self._resumable_sampler.epoch, self._resumable_sampler.skip_batches = state["epoch"], state["batches"]
