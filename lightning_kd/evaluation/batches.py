"""Rows on which exported networks are checked and measured."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.outputs import Batch

DEFAULT_REMEDY = "leave it out, and afterwards call lightning-kd export or report with such data"
"""What a callback says."""


def as_text_datamodule(datamodule: object, caller: str, remedy: str = DEFAULT_REMEDY) -> TextDataModule:
    """Return the DataModule if its examples can be read outside of training.

    Args:
        datamodule: The DataModule, as ``get_datamodule`` returns it.
        caller: Callback or command that reads the examples, for the message.
        remedy: Alternative to suggest.

    Raises:
        ValueError: If it is not a ``TextDataModule``.
    """
    if not isinstance(datamodule, TextDataModule):
        kind = as_datamodule_interface(datamodule).class_name or "there is none"
        raise ValueError(f"{caller}: requires a DataModule of lightning_kd ({kind}); {remedy}")
    return datamodule


@contextmanager
def unsharded_dataloaders(datamodule: TextDataModule) -> Iterator[None]:
    """Within the context loaders give all rows: in a run on several devices each device gets its share."""
    trainer, datamodule.trainer = datamodule.trainer, None
    try:
        yield
    finally:
        datamodule.trainer = trainer


def check_split(datamodule: TextDataModule, split: str) -> None:
    """Refuse a split that cannot be scored.

    Raises:
        ValueError: If there is no such split, or its rows have no labels.
    """
    if split == "validation":
        return  # training needs it, too
    with unsharded_dataloaders(datamodule):
        datamodule.setup(split)
        batch = next(iter(datamodule.test_dataloader()))
    if not {"labels", "answers"} & batch.keys():
        raise ValueError(f"split: the {split} split of {datamodule.path!r} has no labels; report the validation split")


def validation_batches(datamodule: TextDataModule, num_examples: int) -> Iterator[Batch]:
    """Batches of the validation split, until they hold so many rows."""
    with unsharded_dataloaders(datamodule):
        datamodule.setup("validate")
        loader = datamodule.val_dataloader()
    for batch in loader:
        yield batch
        num_examples -= len(batch["row_id"])
        if num_examples <= 0:
            return
