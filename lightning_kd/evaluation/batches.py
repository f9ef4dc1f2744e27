"""Rows on which exported networks are checked and measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_kd.data import TextDataModule
from lightning_kd.outputs import Batch

LATER = "leave it out, and afterwards call lightning-kd export or report with such data"
"""What a callback says."""


def check_data(datamodule: Any, who: str, remedy: str = LATER) -> None:
    """Refuse data whose rows cannot be had apart from training.

    Args:
        datamodule: The data.
        who: What looks at them.
        remedy: What to do instead.

    Raises:
        ValueError: Says what to do instead.
    """
    if not isinstance(datamodule, TextDataModule):
        kind = "there is none" if datamodule is None else f"this one is a {type(datamodule).__name__}"
        raise ValueError(f"{who}: looks at rows of a DataModule of lightning_kd, and {kind}; {remedy}")


@contextmanager
def whole_splits(datamodule: TextDataModule) -> Iterator[None]:
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
    with whole_splits(datamodule):
        datamodule.setup(split)
        batch = next(iter(datamodule.test_dataloader()))
    if not {"labels", "answers"} & batch.keys():
        raise ValueError(f"split: the {split} split of {datamodule.path!r} has no labels; report the validation split")


def some_rows(datamodule: TextDataModule, rows: int) -> Iterator[Batch]:
    """Batches of the validation split, until they hold so many rows."""
    with whole_splits(datamodule):
        datamodule.setup("validate")
        loader = datamodule.val_dataloader()
    for batch in loader:
        yield batch
        rows -= len(batch["row_id"])
        if rows <= 0:
            return
