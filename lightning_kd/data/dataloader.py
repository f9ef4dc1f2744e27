"""A train loader that continues in the middle of an epoch, and the rows behind it."""

from collections.abc import Sequence
from typing import Any, Protocol

import datasets
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset


class TokenizedDataset(Dataset[dict[str, Any]]):
    """The rows of a tokenised split, fetched a batch at a time.

    Args:
        dataset: Tokenised split.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """Columns of the rows at the indices, ``row_id`` and ``epoch``.

        ``~row`` fetches a row as padding, with ``row_id`` -1; ``row + epoch * number of rows`` fetches it for an epoch.
        """
        size = len(self.dataset)
        columns: dict[str, list[Any]] = self.dataset[[index % size if index >= 0 else ~index for index in indices]]
        columns["row_id"] = [index % size if index >= 0 else -1 for index in indices]
        columns["epoch"] = [max(index, 0) // size for index in indices]
        return columns


Position = dict[str, int]
"""Where a loader is: ``epoch``, and how many of its ``batches`` are done."""


class ResumableSampler(Protocol):
    """What decides the order of the rows in an epoch."""

    skip_batches: int

    def set_state(self, epoch: int, skip_batches: int) -> None:
        """Settle which epoch the next ``iter`` begins, and how many of its batches it leaves out."""


class ResumableDataLoader(DataLoader[Any]):
    """A train loader whose position is saved in checkpoints.

    The position is the trainer's count of finished batches, not the iterator's: workers fetch ahead. Which epoch it is
    the loader counts itself: a run with ``max_steps`` that is resumed at an epoch's end begins an epoch twice, the
    first time without a batch, and Lightning counts both.

    Args:
        trainer: The trainer that iterates over the loader.
        resumable_sampler: The sampler or the stream among the arguments; it can skip the first batches of an epoch.
        position: Where to begin, as ``state_dict`` gives it.
        kwargs: Arguments of ``DataLoader``.
    """

    def __init__(
        self, trainer: Trainer | None, resumable_sampler: ResumableSampler, position: Position, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._trainer = trainer
        self._resumable_sampler = resumable_sampler
        self._position = position
        self._batches_at_start: int | None = None

    def __iter__(self) -> Any:
        """Begin the next epoch, or the same again if no batch of it was used."""
        if self._trainer is None:  # somebody else's loop, who sets the order's epoch
            self._resumable_sampler.skip_batches = self._position["batches"]
            self._position = {**self._position, "batches": 0}
        else:
            self._position = (
                self.state_dict()
                if self._batches_at_start is None or self._num_started_batches() == 0
                else self._next_epoch()
            )
            self._batches_at_start = self._trainer.fit_loop.epoch_loop.batch_progress.total.ready
            self._resumable_sampler.set_state(self._position["epoch"], self._position["batches"])
        return super().__iter__()

    def _num_started_batches(self) -> int:
        """Batches that the trainer has begun since the last ``iter``."""
        assert self._trainer is not None
        total: int = self._trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return total - (total if self._batches_at_start is None else self._batches_at_start)

    def _next_epoch(self) -> Position:
        return {"epoch": self._position["epoch"] + 1, "batches": 0}

    def state_dict(self) -> Position:
        """The epoch and the number of its batches that are done."""
        used = 0 if self._trainer is None else self._num_started_batches()
        if used and self._trainer is not None and self._trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return self._next_epoch()
        return {"epoch": self._position["epoch"], "batches": self._position["batches"] + used}

    def load_state_dict(self, state: Position) -> None:
        """Begin there. Lightning calls this before ``iter``, in the middle of an epoch; the DataModule in any case."""
        self._position, self._batches_at_start = dict(state), None
