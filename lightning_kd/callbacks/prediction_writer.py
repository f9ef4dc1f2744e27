"""Writes predictions to a file."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info


class PredictionWriter(BasePredictionWriter):
    """Writes a CSV file with the texts, the predicted label and its probability, in the order of the input.

    Args:
        path: File to write; a relative path lies in the run's log folder.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        super().__init__(write_interval="epoch")
        self.path = path

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
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        texts: dict[str, list[str]] = datamodule.texts() if hasattr(datamodule, "texts") else {}
        file = folder / Path(self.path).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with partial.open("w", newline="", encoding="utf-8") as stream:
                fields = [*texts, *(name for name in (rows or [{}])[0] if name != "row_id")]
                writer = csv.DictWriter(stream, fields)
                writer.writeheader()
                for number, row in enumerate(sorted(rows, key=lambda row: row.get("row_id", 0))):
                    own = {name: column[row.get("row_id", number)] for name, column in texts.items()}
                    # not row.pop: the trainer returns these rows
                    writer.writerow({**own, **{name: value for name, value in row.items() if name != "row_id"}})
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        rank_zero_info(f"{len(rows)} predictions written to {file}")
