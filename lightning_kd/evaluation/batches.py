"""Rows on which exported networks are checked and measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_kd.data import TextDataModule
from lightning_kd.outputs import Batch

DEFAULT_REMEDY = "leave it out, and afterwards call lightning-kd export or report with such data"
"""What a callback says."""


def check_data(datamodule: Any, caller: str, remedy: str = DEFAULT_REMEDY) -> None:
    """Refuse data whose rows cannot be had apart from training.

    Args:
        datamodule: The data.
        caller: What looks at them.
        remedy: What to do instead.

    Raises:
        ValueError: Says what to do instead.
    """
    if not isinstance(datamodule, TextDataModule):
        kind = "there is none" if datamodule is None else f"this one is a {type(datamodule).__name__}"
        raise ValueError(f"{caller}: looks at rows of a DataModule of lightning_kd, and {kind}; {remedy}")


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
