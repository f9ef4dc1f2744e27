"""A train loader that continues in the middle of an epoch, and the rows behind it."""

from collections.abc import Sequence
from typing import Any, Protocol

import datasets
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[dict[str, Any]]):
    """The rows of a tokenised split, fetched a batch at a time.

    Args:
        rows: Tokenised split.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """Columns of the rows at the indices, ``row_id`` and ``epoch``.

        ``~row`` fetches a row as padding, with ``row_id`` -1; ``row + epoch * number of rows`` fetches it for an epoch.
        """
        size = len(self.rows)
        columns: dict[str, list[Any]] = self.rows[[index % size if index >= 0 else ~index for index in indices]]
        columns["row_id"] = [index % size if index >= 0 else -1 for index in indices]
        columns["epoch"] = [max(index, 0) // size for index in indices]
        return columns


class Order(Protocol):
    """What decides the order of the rows in an epoch."""

    skip_batches: int

    def set_epoch(self, epoch: int) -> None:
        """Settle which epoch the next ``iter`` begins."""


class ResumableDataLoader(DataLoader[Any]):
    """A train loader whose position is saved in Lightning's checkpoints.

    The position is the trainer's count of finished batches, not the iterator's: workers fetch ahead.

    Args:
        trainer: The trainer that iterates over the loader.
        order: The sampler or the stream among the arguments; it can skip the first batches of an epoch.
        kwargs: Arguments of ``DataLoader``.
    """

    def __init__(self, trainer: Trainer | None, order: Order, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._trainer = trainer
        self._order = order

    def __iter__(self) -> Any:
        """Begin the trainer's epoch: with workers the first batches are fetched before Lightning sets the epoch."""
        if self._trainer is not None:
            progress: Any = self._trainer.fit_loop.epoch_progress.current
            self._order.set_epoch(progress.processed)
        return super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """The number of batches of the epoch that are done."""
        if self._trainer is None:
            return {"batches": 0}
        done = self._trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"batches": 0 if done >= self._trainer.num_training_batches else done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next ``iter`` leave out the batches that are done. Lightning calls this before ``iter``."""
        self._order.skip_batches = state["batches"]
