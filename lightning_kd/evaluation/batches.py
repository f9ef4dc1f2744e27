"""Batches of the validation and test splits, on which models are checked and measured."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task

Split = Literal["validation", "test"]
STAGES = {"validation": "validate", "test": "test"}
"""Lightning's stage for each split."""

DEFAULT_REMEDY = "remove it, and call lightning-kd export or report with such data after training"
"""Remedy in the messages of callbacks."""


def as_text_datamodule(datamodule: object, caller: str, remedy: str = DEFAULT_REMEDY) -> TextDataModule:
    """Return the DataModule if its examples can be read outside of training.

    Args:
        datamodule: The DataModule, as ``get_datamodule`` returns it.
        caller: Name of the callback or command that reads the examples, for the message.
        remedy: Alternative to suggest.

    Raises:
        ValueError: If it is not a ``TextDataModule``.
    """
    if not isinstance(datamodule, TextDataModule):
        kind = as_datamodule_interface(datamodule).class_name or "there is none"
        raise ValueError(f"{caller}: requires a DataModule of lightning_kd ({kind}); {remedy}")
    return datamodule


def check_split_name(split: str, caller: str) -> None:
    """Raise if the split is neither ``validation`` nor ``test``.

    Raises:
        ValueError: If it is neither; the message names the caller's argument and the value.
    """
    if split not in STAGES:
        raise ValueError(f"{caller}.split: must be one of {', '.join(STAGES)}, got {split!r}")


@contextmanager
def unsharded_dataloaders(datamodule: TextDataModule) -> Iterator[None]:
    """Load all examples of a split within the context, even in a distributed run."""
    trainer, datamodule.trainer = datamodule.trainer, None
    try:
        yield
    finally:
        datamodule.trainer = trainer


def split_dataloader(datamodule: TextDataModule, split: Split) -> DataLoader[Any]:
    """Return a new DataLoader of a split."""
    datamodule.setup(STAGES[split])
    return datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()


def with_progress_bar(batches: Iterable[Batch], description: str, enable: bool) -> Iterable[Batch]:
    """Return the batches; iterating over them shows a progress bar if enabled, which disappears at the end."""
    progress_bar: Iterable[Batch] = tqdm(batches, desc=description, leave=False, disable=not enable)
    return progress_bar


def check_split(datamodule: TextDataModule, split: Split, task: Task) -> None:
    """Raise if a split cannot be scored.

    Args:
        datamodule: The data.
        split: The split; the validation split is not checked, because training checks it.
        task: Task whose labels the split needs.

    Raises:
        ValueError: If there is no such split, or its examples have no labels.
    """
    if split == "validation":
        return
    with unsharded_dataloaders(datamodule):
        batch = next(iter(split_dataloader(datamodule, split)))
    if not task.is_labeled(batch):
        raise ValueError(f"split: the {split} split of {datamodule.path!r} has no labels; use the validation split")


def validation_batches(datamodule: TextDataModule, num_examples: int) -> Iterator[Batch]:
    """Yield batches of the validation split until they contain the given number of examples."""
    with unsharded_dataloaders(datamodule):
        loader = split_dataloader(datamodule, "validation")
    for batch in loader:
        yield batch
        num_examples -= len(batch["row_id"])
        if num_examples <= 0:
            return
