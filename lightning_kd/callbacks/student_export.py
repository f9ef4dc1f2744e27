"""Exports the best student as a Hugging Face model folder."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from lightning_kd.callbacks.base import find_callbacks
from lightning_kd.callbacks.export_base import Export
from lightning_kd.export.student import TrainedStudent
from lightning_kd.training.module import DistillationModule


class StudentExport(Export):
    """Writes the best student (weights, tokenizer, label names, model card) at the end of ``fit``.

    It runs before all other exports, whatever their order, so that the student is written even if one of them fails.

    Args:
        output_dir: Folder to write; null = ``student`` in the run's log folder. An earlier export is replaced;
            any other non-empty folder is an error before training.
    """

    dirname = "student"
    config_key = "export"
    description = "Student"

    def __init__(self, output_dir: str | None = None) -> None:
        super().__init__(output_dir)
        self._exported = False

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check the folder before training."""
        super().setup_fit(trainer, pl_module)
        self._exported = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the best student; other exports follow in ``on_fit_end``."""
        if not find_callbacks(trainer, WeightAveraging):  # it copies the averages into the student in this hook
            self.export(trainer, self.distillation_module(pl_module))
            self._exported = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the student if ``on_train_end`` did not: weights are averaged, or no training step ran."""
        if not self._exported:
            super().on_fit_end(trainer, pl_module)

    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """Write weights, configuration, tokenizer and model card."""
        student.model.save_pretrained(folder)
        student.save_config_and_tokenizer(folder)
        student.save_card(folder)
