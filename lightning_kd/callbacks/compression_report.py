"""Compares teacher, student and exports at the end of a run."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from torch.distributed.fsdp import FSDPModule

from lightning_kd.callbacks.base import DistillationModuleCallback, find_callbacks, is_fast_dev_run, output_path
from lightning_kd.callbacks.export_base import Export
from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import get_datamodule
from lightning_kd.evaluation import report_plot
from lightning_kd.evaluation.batches import Split, as_text_datamodule, check_split, check_split_name
from lightning_kd.evaluation.benchmark import build_report
from lightning_kd.export.artifacts import Artifact, open_artifact
from lightning_kd.export.model_card import add_report
from lightning_kd.export.requirements import require_packages
from lightning_kd.export.tracing import requires_missing_device
from lightning_kd.io.atomic import check_writable
from lightning_kd.models import count_parameters, has_fixed_placement
from lightning_kd.training.module import DistillationModule


class CompressionReport(DistillationModuleCallback):
    """Compares teacher, student and all exports at the end of ``fit``.

    It measures score with a bootstrap interval, agreement with the teacher, parameters, size on disk, latency and
    throughput on this machine's CPU. It writes to the terminal, to ``report.md``, ``report.json`` and ``report.png``,
    to TensorBoard, and into the model cards of the exports.

    Needs ``pip install 'lightning-kd[plots]'``.

    Args:
        output_dir: Folder to write; null = the run's log folder.
        split: The split to score on.
    """

    def __init__(self, output_dir: str | None = None, split: Split = "validation") -> None:
        check_split_name(split, "CompressionReport")
        self.output_dir = output_dir
        self.split: Split = split
        self._fit_completed = False

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check before training that a report can be made.

        Raises:
            ValueError: If nothing is exported, the data cannot be scored, the folder cannot be written, or matplotlib
                is missing.
        """
        require_packages("CompressionReport", "plots", "matplotlib")
        if not find_callbacks(trainer, Export):
            raise ValueError("CompressionReport: no export to report on; add StudentExport() to trainer.callbacks")
        datamodule = as_text_datamodule(get_datamodule(trainer), "CompressionReport")
        check_split(datamodule, self.split, pl_module.task)
        check_writable(output_path(trainer, self.output_dir) / "report.md", "CompressionReport.output_dir")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that training completed; ``teardown`` is also called after a learning rate finder."""
        self._fit_completed = not is_fast_dev_run(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Measure and write the report, after the exports of ``on_fit_end``."""
        fit_completed, self._fit_completed = self._fit_completed, False
        if stage != "fit" or not fit_completed:
            return
        folders = [folder for export in find_callbacks(trainer, Export) for folder in export.output_dirs(trainer)]
        target = output_path(trainer, self.output_dir)
        if not trainer.is_global_zero:
            return
        folders = [folder for folder in folders if folder.is_dir() and not requires_missing_device(folder)]
        if not folders:  # no step was taken
            return
        folders.sort(key=lambda folder: not any(folder.glob("*.safetensors")))  # the PyTorch student first
        try:
            self._measure_and_write(trainer, self.distillation_module(pl_module), folders, target)
        except Exception as error:  # the exports are complete, and other callbacks may use them
            models = " ".join(map(str, folders))
            rank_zero_warn(
                f"CompressionReport: failed ({type(error).__name__}: {error}); fix the cause and run "
                f"lightning-kd report --models {models}"
            )

    def _measure_and_write(
        self, trainer: Trainer, pl_module: DistillationModule, folders: list[Path], target: Path
    ) -> None:
        datamodule = as_text_datamodule(get_datamodule(trainer), "CompressionReport")
        artifacts = _teacher_artifacts(pl_module, datamodule)
        artifacts += [open_artifact(str(folder), pl_module.task) for folder in folders]
        show_progress = trainer.progress_bar_callback is not None
        ignore_label_mismatch = "label_mismatch" in pl_module.ignore_checks
        report = build_report(artifacts, pl_module.task, datamodule, self.split, ignore_label_mismatch, show_progress)
        Console(width=None if show_progress else 160).print(report.table())
        report_plot.write_report(report, target)
        for folder in folders:
            add_report(folder / "README.md", report.markdown())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("compression", report.markdown(), trainer.global_step)
                logger.experiment.add_figure("compression", report_plot.plot_report(report), trainer.global_step)
        rank_zero_info(f"Report written to {target / 'report.md'}")


def _teacher_artifacts(pl_module: DistillationModule, datamodule: TextDataModule) -> list[Artifact]:
    """Return the teacher, or nothing if it cannot be compared with the exports."""
    teacher = pl_module.active_teacher
    if teacher is None:
        return []
    source, options = teacher.models[0].source, teacher.models[0].options
    if len(teacher.models) > 1:
        reason = "is an ensemble"
    elif datamodule.teacher_tokenizers:
        reason = "has a different tokenizer"
    elif isinstance(source, str) and not options:
        return [open_artifact(source, pl_module.task, "teacher")]
    elif isinstance(model := teacher.load()[0], FSDPModule) or has_fixed_placement(model):
        reason = "is quantized or sharded"
    else:
        return [Artifact("teacher", "PyTorch", model.cpu().eval(), count_parameters(model), None)]
    rank_zero_warn(
        f"CompressionReport: the teacher {reason} and is left out; agreement and speedup are relative to the student"
    )
    return []
