"""Writes predictions to a file."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from lightning_kd.data.interface import get_datamodule
from lightning_kd.io.atomic import atomic_write, check_writable
from lightning_kd.tasks.base import Task


class PredictionWriter(BasePredictionWriter):
    """Writes what was predicted, in the order of the input.

    As .json, answers to questions become ``{id: answer}``, the file that SQuAD's official scripts score, and labels a
    list of objects. Under any other name the file is CSV: the texts, the prediction, and its probability or score.

    Args:
        path: File to write; a relative path lies in the run's log folder. Null = the task's own: ``predictions.json``
            for question answering, ``predictions.csv`` otherwise.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a file that cannot be written before there is anything to write."""
        super().setup(trainer, pl_module, stage)
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if stage == "predict" and self.path is not None:
            check_writable(folder / Path(self.path).expanduser(), "predictions.path")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Collect the rows of all devices and write them at once."""
        rows = [row for batch in predictions for row in batch]
        if trainer.world_size > 1:
            gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        rows = sorted(rows, key=lambda row: row.get("row_id", 0))
        task = getattr(pl_module, "task", None)
        if isinstance(task, Task):
            rows = task.merge_predictions(rows)
        texts = get_datamodule(trainer).texts()
        text_columns = [
            {name: column[row.get("row_id", n)] for name, column in texts.items()} for n, row in enumerate(rows)
        ]
        # not row.pop: the trainer returns these rows
        rows = [
            {**text, **{name: value for name, value in row.items() if name != "row_id"}}
            for text, row in zip(text_columns, rows, strict=True)
        ]
        name = self.path or (task if isinstance(task, Task) else Task).prediction_file
        file = folder / Path(name).expanduser()
        with atomic_write(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            if file.suffix == ".json":
                content = task.prediction_json(rows) if isinstance(task, Task) else rows
                json.dump(content, stream, ensure_ascii=False, indent=1)
            else:
                write_csv(rows, stream)
        rank_zero_info(f"{len(rows)} predictions written to {file}")


def write_csv(rows: list[dict[str, Any]], stream: TextIO) -> None:
    """A line per prediction below the names of the columns."""
    writer = csv.DictWriter(stream, list((rows or [{}])[0]))
    writer.writeheader()
    writer.writerows(rows)
