"""Logits of a model on a split and on sentences."""

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
from lightning_kd.tasks.base import Task

LogitsFn = Callable[[Batch], Outputs]
"""Function that runs a model on a batch."""


@dataclass(frozen=True)
class ModelLogits:
    """Logits of a model, on the CPU.

    Attributes:
        name: Name of the model.
        split_logits: Logits of a split's examples, in order, (N, C).
        sentence_logits: Logits of the sentences, (S, C); None if there are none.
    """

    name: str
    split_logits: Tensor
    sentence_logits: Tensor | None


class SplitLogits(Metric):
    """Collects logits and labels of a split from all ranks, ordered by example.

    Args:
        single_process: If True, one rank runs the whole split, so that there is nothing to synchronize.
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
        """Add a batch; its padding examples (``row_id`` -1) are not in the outputs."""
        (head,) = outputs.heads.values()
        row_ids = batch["row_id"][batch["row_id"] >= 0]
        self.row_ids.append(row_ids)
        self.logits.append(head.logits.float())
        self.labels.append(torch.full_like(row_ids, IGNORE_INDEX) if head.labels is None else head.labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return logits (N, C) and labels (N,), < 0 if unknown, on the CPU."""
        order = dim_zero_cat(self.row_ids).argsort()
        return dim_zero_cat(self.logits)[order].cpu(), dim_zero_cat(self.labels)[order].cpu()


@torch.no_grad()
def collect_logits(
    name: str,
    task: Task,
    split_logits_fn: LogitsFn,
    batches: Iterable[Batch],
    metric: SplitLogits,
    sentence_logits_fn: LogitsFn,
    sentences: Batch | None,
) -> tuple[ModelLogits, Tensor]:
    """Run a model on a split and on sentences.

    Args:
        name: Name of the model.
        task: Its task.
        split_logits_fn: Runs the model on the split.
        batches: Batches of the split, on its device.
        metric: Collects the logits, on its device.
        sentence_logits_fn: Runs the model on the sentences.
        sentences: A batch on its device; None for no sentences.

    Returns:
        The logits, and the labels of the split, (N,).

    Raises:
        FloatingPointError: If a logit is NaN or infinite, see ``Task.check_finite``.
    """
    for batch in batches:
        outputs = split_logits_fn(batch)
        task.check_finite(outputs, batch, name)
        metric.update(outputs, batch)
    logits, labels = metric.compute()
    sentence_logits = None
    if sentences is not None:
        outputs = sentence_logits_fn(sentences)
        task.check_finite(outputs, sentences, f"{name} (sentences)")
        (head,) = outputs.heads.values()
        sentence_logits = head.logits.float().cpu()
    return ModelLogits(name, logits, sentence_logits), labels


def _text_columns(raw: Dataset) -> list[str]:
    return [name for name, feature in raw.features.items() if isinstance(feature, Value) and feature.dtype == "string"]


def load_raw_split(datamodule: TextDataModule, split: str) -> Dataset:
    """Return a split before tokenization.

    Raises:
        ValueError: If there is no such split.
    """
    raw = datamodule.load(split)
    if raw is None:
        raise ValueError(f"split: {datamodule.path!r} has no {split} split; use another split")
    return raw


def get_texts(raw: Dataset, indices: list[int]) -> list[str]:
    """Return the texts of examples; those of a pair are joined by a bar."""
    return [" | ".join(raw[index][name] for name in _text_columns(raw)) for index in indices]


def encode_sentences(datamodule: TextDataModule, raw: Dataset, sentences: list[str]) -> Batch:
    """Return sentences as a batch of the DataModule.

    Args:
        datamodule: The data.
        raw: A split before tokenization, which has the text columns.
        sentences: The texts.

    Raises:
        ValueError: If an example has several texts.
    """
    columns = _text_columns(raw)
    if len(columns) != 1:
        raise ValueError(
            f"TemperatureProbe.sentences: an example of {datamodule.path!r} has {len(columns)} texts "
            f"({', '.join(columns)}); remove sentences to show the most and least confident examples"
        )
    rows: dict[str, list[Any]] = {columns[0]: sentences}
    if "label" in raw.column_names:  # without labels, they would be encoded for prediction, without teacher inputs
        rows["label"] = [IGNORE_INDEX] * len(sentences)
    encoded = datamodule.encode(rows)
    encoded["row_id"] = list(range(len(sentences)))
    return datamodule.collate(set(), train=False)(encoded)
