"""Writes predictions to a file."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from lightning_kd.callbacks.base import output_path
from lightning_kd.data.interface import get_datamodule
from lightning_kd.io.atomic import atomic_write, check_writable
from lightning_kd.tasks.base import Task


class PredictionWriter(BasePredictionWriter):
    """Writes predictions in the order of the input.

    A .json file has the format of the task: ``{id: answer}``, as SQuAD's official scripts read it, for question
    answering; a list of objects for labels. Any other file is CSV with the texts, the prediction and its score.

    Args:
        path: File to write, relative to the run's log folder; null = ``predictions.json`` for question answering, else
            ``predictions.csv``.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the file can be written.

        Raises:
            ValueError: If ``path`` cannot be written.
        """
        super().setup(trainer, pl_module, stage)
        folder = output_path(trainer)
        if stage == "predict" and self.path is not None:
            check_writable(folder / Path(self.path).expanduser(), "predictions.path")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gather the predictions of all ranks and write them."""
        rows = [row for batch in predictions for row in batch]
        if trainer.world_size > 1:
            gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        folder = output_path(trainer)
        if not trainer.is_global_zero:
            return
        rows = sorted(rows, key=lambda row: row.get("row_id", 0))
        task = getattr(pl_module, "task", None)
        task = task if isinstance(task, Task) else None  # any other module has no format
        if task is not None:
            rows = task.merge_predictions(rows)
        text_columns = get_datamodule(trainer).texts()
        rows = [
            {name: texts[row.get("row_id", number)] for name, texts in text_columns.items()}
            | {name: value for name, value in row.items() if name != "row_id"}  # no pop: the trainer returns these rows
            for number, row in enumerate(rows)
        ]
        name = self.path or (task or Task).prediction_file
        file = folder / Path(name).expanduser()
        with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            if file.suffix == ".json":
                json.dump(task.prediction_json(rows) if task else rows, stream, ensure_ascii=False, indent=1)
            else:
                writer = csv.DictWriter(stream, list((rows or [{}])[0]))
                writer.writeheader()
                writer.writerows(rows)
        rank_zero_info(f"{len(rows)} predictions written to {file}")
