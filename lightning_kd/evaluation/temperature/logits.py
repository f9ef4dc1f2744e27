"""What a network says about a split, and about sentences of one's own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, Value
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_kd.data import TextDataModule
from lightning_kd.outputs import IGNORE_INDEX, Batch, Outputs

LogitsFn = Callable[[Batch], Outputs]
"""A network: from a batch to its heads."""


@dataclass(frozen=True)
class ModelLogits:
    """Logits of a network, on the CPU.

    Attributes:
        name: Of the network.
        split_logits: Of the rows of a split in order, (N, C).
        sentence_logits: Of the sentences, (S, C); None where there are none.
    """

    name: str
    split_logits: Tensor
    sentence_logits: Tensor | None


class SplitLogits(Metric):
    """Keeps the logits of a split, in the order of its rows, those of all devices together.

    Args:
        single_process: Whether one process asks about the whole split, so that there is nothing to put together.
    """

    full_state_update = False
    row_ids: list[Tensor]
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, single_process: bool = False) -> None:
        super().__init__(sync_on_compute=not single_process)
        for name in ("row_ids", "logits", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Keep a batch; rows that only pad it are not in the outputs."""
        (head,) = outputs.heads.values()
        row_ids = batch["row_id"][batch["row_id"] >= 0]
        self.row_ids.append(row_ids)
        self.logits.append(head.logits.float())
        self.labels.append(torch.full_like(row_ids, IGNORE_INDEX) if head.labels is None else head.labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and labels (N,), < 0 where unknown, on the CPU."""
        order = dim_zero_cat(self.row_ids).argsort()
        return dim_zero_cat(self.logits)[order].cpu(), dim_zero_cat(self.labels)[order].cpu()


@torch.no_grad()
def collect_logits(
    name: str,
    split_logits_fn: LogitsFn,
    batches: Iterable[Batch],
    metric: SplitLogits,
    sentence_logits_fn: LogitsFn,
    sentences: Batch | None,
) -> tuple[ModelLogits, Tensor]:
    """Run a network on a split and on sentences.

    Args:
        name: How to call it.
        split_logits_fn: Answers the batches of the split.
        batches: On its device.
        metric: What keeps them, on its device.
        sentence_logits_fn: Answers the sentences.
        sentences: A batch, on its device; None = none.

    Returns:
        What it says, and the labels of the split, (N,).
    """
    for batch in batches:
        metric.update(split_logits_fn(batch), batch)
    logits, labels = metric.compute()
    sentence_logits = None
    if sentences is not None:
        (head,) = sentence_logits_fn(sentences).heads.values()
        sentence_logits = head.logits.float().cpu()
    return ModelLogits(name, logits, sentence_logits), labels


def _text_columns(raw: Dataset) -> list[str]:
    return [name for name, feature in raw.features.items() if isinstance(feature, Value) and feature.dtype == "string"]


def load_raw_split(datamodule: TextDataModule, split: str) -> Dataset:
    """A split before it is tokenised.

    Raises:
        ValueError: If there is no such split.
    """
    raw = datamodule.load(split)
    if raw is None:
        raise ValueError(f"split: {datamodule.path!r} has no {split} split; probe another")
    return raw


def get_texts(raw: Dataset, indices: list[int]) -> list[str]:
    """The texts of some rows; those of a pair with a bar between them."""
    return [" | ".join(raw[index][name] for name in _text_columns(raw)) for index in indices]


def encode_sentences(datamodule: TextDataModule, raw: Dataset, sentences: list[str]) -> Batch:
    """Sentences as the networks would get them from the DataModule.

    Raises:
        ValueError: If its rows are not single texts.
    """
    columns = _text_columns(raw)
    if len(columns) != 1:
        raise ValueError(
            f"TemperatureProbe.sentences: a row of {datamodule.path!r} has {len(columns)} texts "
            f"({', '.join(columns)}), so one sentence is none; leave them out, to see the most and least certain rows"
        )
    rows: dict[str, list[Any]] = {columns[0]: sentences}
    if "label" in raw.column_names:  # rows without one are to predict, and those the teacher does not read
        rows["label"] = [IGNORE_INDEX] * len(sentences)
    encoded = datamodule.encode(rows)
    encoded["row_id"] = list(range(len(sentences)))
    return datamodule.collate(set(), train=False)(encoded)
