"""Says at the end of a run whether it was worth it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from torch.distributed.fsdp import FSDPModule

from lightning_kd.callbacks.export import export_callbacks
from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import get_datamodule
from lightning_kd.evaluation import report_plot
from lightning_kd.evaluation.artifacts import Artifact, open_artifact
from lightning_kd.evaluation.batches import as_text_datamodule, check_split
from lightning_kd.evaluation.report import STAGES, Report, Split, build_report
from lightning_kd.export.model_card import EXPORT_TAG
from lightning_kd.export.tracing import requires_missing_device
from lightning_kd.io.atomic import atomic_write
from lightning_kd.models import count_parameters, has_fixed_placement
from lightning_kd.training.module import DistillationModule

HEADING = "## Compression report"


class CompressionReport(Callback):
    """At the end of ``fit`` puts teacher, student and every exported artefact side by side.

    Score with a bootstrap interval, agreement with the teacher, parameters, size on the disk, latency and throughput on
    this machine's processor: to the terminal, to ``report.md``, ``report.json`` and ``report.png``, to TensorBoard, and
    into the model cards of what was exported.

    Needs ``pip install 'lightning-kd[plots]'``.

    Args:
        output_dir: Where to write; null = the run's log folder.
        split: The split to score on.
    """

    def __init__(self, output_dir: str | None = None, split: Split = "validation") -> None:
        if split not in STAGES:
            raise ValueError(f"CompressionReport.split: must be one of {', '.join(STAGES)}, got {split!r}")
        self.output_dir = output_dir
        self.split: Split = split
        self._fitted = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training what would be missing after it.

        Raises:
            ValueError: If nothing is going to be exported, the data cannot be scored, or matplotlib is missing.
        """
        if stage != "fit":
            return
        report_plot.check_matplotlib_installed()
        if not export_callbacks(trainer):
            raise ValueError("CompressionReport: nothing is exported that it could report; add StudentExport()")
        check_split(as_text_datamodule(get_datamodule(trainer), "CompressionReport"), self.split)
        check_output_dir(self._resolve_output_dir(trainer))

    def _resolve_output_dir(self, trainer: Trainer) -> Path:
        return (
            Path(self.output_dir).expanduser() if self.output_dir else Path(trainer.log_dir or trainer.default_root_dir)
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something to report: ``teardown`` also follows a learning rate finder."""
        self._fitted = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Measure and write; in ``teardown``, because the exporters work in ``on_fit_end``."""
        fitted, self._fitted = self._fitted, False
        if stage != "fit" or not fitted or not isinstance(pl_module, DistillationModule):
            return
        folders = [folder for exporter in export_callbacks(trainer) for folder in exporter.output_dirs(trainer)]
        target = self._resolve_output_dir(trainer)
        if not trainer.is_global_zero:
            return
        folders = [folder for folder in folders if folder.is_dir() and not requires_missing_device(folder)]
        folders.sort(key=lambda folder: not any(folder.glob("*.safetensors")))  # the student before what it became
        try:
            self._measure_and_write(trainer, pl_module, folders, target)
        except Exception as error:  # the exports are there, and others may want to do something with them
            models = " ".join(map(str, folders))
            rank_zero_warn(
                f"CompressionReport: no report ({type(error).__name__}: {error}); when the cause is gone, call "
                f"lightning-kd report --models {models}"
            )

    def _measure_and_write(
        self, trainer: Trainer, pl_module: DistillationModule, folders: list[Path], target: Path
    ) -> None:
        datamodule = as_text_datamodule(get_datamodule(trainer), "CompressionReport")
        teachers = _teacher_artifacts(pl_module, datamodule)
        artifacts = [*teachers, *(open_artifact(str(f), pl_module.task) for f in folders)]
        show_progress = trainer.progress_bar_callback is not None
        ignore_label_mismatch = "label_mismatch" in pl_module.ignore_checks
        report = build_report(artifacts, pl_module.task, datamodule, self.split, ignore_label_mismatch, show_progress)
        Console(width=None if show_progress else 160).print(report.table())
        write_report(report, target)
        for folder in folders:
            _add_to_card(folder / "README.md", report)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("compression", report.markdown(), trainer.global_step)
                logger.experiment.add_figure("compression", report_plot.plot_report(report), trainer.global_step)
        rank_zero_info(f"Report written to {target / 'report.md'}")


def _teacher_artifacts(pl_module: DistillationModule, datamodule: TextDataModule) -> list[Artifact]:
    teacher = pl_module.active_teacher
    if teacher is None:
        return []
    if len(teacher.models) > 1:
        rank_zero_warn(
            "CompressionReport: leaves out the teacher, an ensemble; agreement and speedup are against the student"
        )
        return []
    if datamodule.teacher_tokenizers:
        rank_zero_warn(
            "CompressionReport: leaves out the teacher, which reads an encoding of its own; agreement and speedup are "
            "against the student"
        )
        return []
    member, model = teacher.models[0], teacher.load()[0]
    if isinstance(member.source, str) and not member.options:
        return [open_artifact(member.source, pl_module.task, "teacher")]
    if isinstance(model, FSDPModule) or has_fixed_placement(model):
        rank_zero_warn(
            "CompressionReport: leaves out the teacher, which is quantised or divided among devices; agreement and "
            "speedup are against the student"
        )
        return []
    return [Artifact("teacher", "PyTorch", model.cpu().eval(), count_parameters(model), None)]


def source_model_card(source: str) -> str:
    """The text of a model's card, or of a short one, by which its exports are recognised; without its report."""
    file = Path(source) / "README.md"
    card = ModelCard.load(file) if file.is_file() else ModelCard(f"---\n---\n\n# {source}\n")
    data: Any = card.data
    data.tags = list(dict.fromkeys([*(data.tags or []), EXPORT_TAG]))
    return _strip_report(str(card))


def _strip_report(card: str) -> str:
    return card.partition(f"\n{HEADING}")[0]


def check_output_dir(folder: Path) -> None:
    """Refuse a folder that cannot be written to.

    Raises:
        ValueError: If it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir: {str(folder)!r} is a file; choose a folder for the report")


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.md``, ``report.json`` and ``report.png``, each complete or not at all."""
    texts: dict[str, Any] = {"report.md": report.markdown(), "report.json": report.json()}
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write_text(text, encoding="utf-8")
    with atomic_write(folder / "report.png") as file:
        report_plot.plot_report(report).savefig(file, dpi=150)


def _add_to_card(card: Path, report: Report) -> None:
    """Put the report at the end of a card, in the place of an earlier one."""
    text = _strip_report(card.read_text(encoding="utf-8"))
    with atomic_write(card) as file:
        file.write_text(f"{text}\n{HEADING}\n\n{report.markdown()}", encoding="utf-8")
