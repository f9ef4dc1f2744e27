"""A train loader that continues in the middle of an epoch, and the rows behind it."""

from collections.abc import Sequence
from typing import Any

import datasets
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_kd.data.samplers import LengthGroupedSampler


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
        """Columns of the rows at the indices and ``row_id``; ``~row`` fetches a row as padding, with ``row_id`` -1."""
        columns: dict[str, list[Any]] = self.rows[[index if index >= 0 else ~index for index in indices]]
        columns["row_id"] = [max(index, -1) for index in indices]
        return columns


class ResumableDataLoader(DataLoader[Any]):
    """A train loader whose position is saved in Lightning's checkpoints.

    The position is the trainer's count of finished batches, not the iterator's: workers fetch ahead.

    Args:
        trainer: The trainer that iterates over the loader.
        sampler: Gives the order of an epoch and can skip its first batches.
        kwargs: Further arguments of ``DataLoader``.
    """

    def __init__(self, trainer: Trainer | None, sampler: LengthGroupedSampler, **kwargs: Any) -> None:
        super().__init__(sampler=sampler, batch_size=sampler.batch_size, **kwargs)
        self._trainer = trainer
        self._order = sampler

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
