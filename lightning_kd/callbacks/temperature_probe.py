"""Shows, before one waits for it, what a temperature makes of the teacher's probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torch import Tensor

from lightning_kd.callbacks.compression_report import check_output_dir
from lightning_kd.callbacks.export import best_weights, clone_student
from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import get_datamodule
from lightning_kd.evaluation.batches import as_text_datamodule, check_split, unsharded_dataloaders
from lightning_kd.evaluation.report import STAGES, Split
from lightning_kd.evaluation.report_plot import check_matplotlib_installed
from lightning_kd.evaluation.temperature import plot
from lightning_kd.evaluation.temperature.compare import build_probe_result
from lightning_kd.evaluation.temperature.logits import (
    ModelLogits,
    SplitLogits,
    collect_logits,
    encode_sentences,
    load_raw_split,
)
from lightning_kd.evaluation.temperature.probe import check_named_labels
from lightning_kd.evaluation.temperature.result import ProbeResult
from lightning_kd.evaluation.temperature.selection import CALLBACK_NAME, Selection
from lightning_kd.io.atomic import atomic_write, check_writable
from lightning_kd.outputs import Batch, Outputs
from lightning_kd.training.module import DistillationModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TemperatureProbe(Callback):
    """Shows what temperatures make of the teacher's probabilities, and at the end of the best student's.

    For each sentence the likeliest and the least likely classes as bar charts and as a table, with the probabilities of
    the second and of the last class and their relative difference, (second - last) / second in %: what a temperature
    lets the student see of classes that are wrong. Over the split the mean entropy, the mass on wrong classes, the
    expected calibration error, and agreement and divergence of teacher and student.

    Goes to the terminal, to ``probe.md``, ``probe.json`` and ``probe.png``, and to TensorBoard; the teacher's part
    before the first step, the student's beside it at the end of ``fit``. The networks compute in the run's precision.

    Needs ``pip install 'lightning-kd[plots]'``.

    Args:
        sentences: Texts to show, at most 20; null = rows of the split.
        num_examples: Without sentences: how many rows of the split with the highest probability of the teacher's
            likeliest class (at temperature 1) are shown, and how many with the lowest, from 1 to 10.
        temperatures: Each > 0.
        top_k: How many of the likeliest classes are shown, >= 1; all where there are fewer.
        bottom_k: How many of the least likely, >= 1.
        split: The split over which means are taken.
        output_dir: Where to write; null = the run's log folder.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sentences: list[str] | None = None,
        num_examples: int = 2,
        temperatures: Sequence[float] = (1.0, 5.0, 19.0),
        top_k: int = 5,
        bottom_k: int = 3,
        split: Split = "validation",
        output_dir: str | None = None,
    ) -> None:
        if split not in STAGES:
            raise ValueError(f"{CALLBACK_NAME}.split: must be one of {', '.join(STAGES)}, got {split!r}")
        self.selection = Selection(sentences, num_examples, list(temperatures), top_k, bottom_k)
        self.split: Split = split
        self.output_dir = output_dir
        self._teacher_logits: tuple[ModelLogits, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training what can be checked.

        Raises:
            ValueError: If there is no teacher, its classes have no names or are too few, the data cannot be shown or
                have no labels, or matplotlib is missing.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(f"{CALLBACK_NAME}: works on a DistillationModule, got {type(pl_module).__name__}")
        check_matplotlib_installed(CALLBACK_NAME)
        check_named_labels(pl_module.task)
        if pl_module.active_teacher is None:
            raise ValueError(
                f"{CALLBACK_NAME}: there is no teacher that a loss reads; leave it out, and afterwards call "
                f"lightning-kd probe "
                "--teacher <exported folder>"
            )
        datamodule = self._datamodule(trainer)
        check_split(datamodule, self.split)
        pl_module.build_student()
        self.selection.check_num_classes(len(pl_module.label_names or []))
        if self.selection.sentences is not None:
            encode_sentences(datamodule, load_raw_split(datamodule, self.split), self.selection.sentences)
        target = self._resolve_output_dir(trainer)
        check_output_dir(target)
        check_writable(target / "probe.md", f"{CALLBACK_NAME}.output_dir")

    def _resolve_output_dir(self, trainer: Trainer) -> Path:
        """To be asked on every device: log_dir is a broadcast."""
        return (
            Path(self.output_dir).expanduser() if self.output_dir else Path(trainer.log_dir or trainer.default_root_dir)
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the teacher: each device asks it about its share of the split."""
        assert isinstance(pl_module, DistillationModule)
        teacher = pl_module.active_teacher
        assert teacher is not None
        logits_fn: Any = teacher
        cache = pl_module.teacher_cache
        if cache is not None and cache.top_k is None:  # else its tails are made up
            logits_fn = pl_module.cached_teachers.get(self.split, teacher)
        with isolate_rng(), trainer.precision_plugin.forward_context():
            batches = map(pl_module.to_device, self._loader(trainer))
            split_logits = SplitLogits().to(pl_module.device)
            sentences = self._sentences(trainer)
            sentences = None if sentences is None else pl_module.to_device(sentences)
            self._teacher_logits = collect_logits("teacher", logits_fn, batches, split_logits, teacher, sentences)
        if cache is not None:
            teacher.unload()  # it may not be needed again
        self._show(trainer, pl_module, self._resolve_output_dir(trainer), [self._teacher_logits[0]])

    def _datamodule(self, trainer: Trainer) -> TextDataModule:
        return as_text_datamodule(get_datamodule(trainer), CALLBACK_NAME)

    def _loader(self, trainer: Trainer) -> Any:
        datamodule = self._datamodule(trainer)
        datamodule.setup(STAGES[self.split])
        return datamodule.test_dataloader() if self.split == "test" else datamodule.val_dataloader()

    def _sentences(self, trainer: Trainer) -> Batch | None:
        datamodule = self._datamodule(trainer)
        sentences = self.selection.sentences
        return (
            None
            if sentences is None
            else encode_sentences(datamodule, load_raw_split(datamodule, self.split), sentences)
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the best student beside it; the first device asks it about the whole split."""
        if trainer.fast_dev_run or self._teacher_logits is None or not isinstance(pl_module, DistillationModule):  # type: ignore[attr-defined]
            return
        if not isinstance(pl_module.student, transformers.PreTrainedModel):
            rank_zero_warn(f"{CALLBACK_NAME}: the student is no transformers model, so only the teacher is shown")
            return
        target, weights = self._resolve_output_dir(trainer), best_weights(trainer, pl_module)  # on every device
        try:
            if trainer.is_global_zero:
                model = clone_student(pl_module, weights).to(pl_module.device)  # type: ignore[arg-type]
                student = self._collect_student_logits(trainer, pl_module, model)
                self._show(trainer, pl_module, target, [self._teacher_logits[0], student])
        except Exception as error:  # training is done, and others may want to do something with it
            rank_zero_warn(f"{CALLBACK_NAME}: only the teacher is shown ({type(error).__name__}: {error})")
        self._teacher_logits = None
        trainer.strategy.barrier(CALLBACK_NAME)

    def _collect_student_logits(self, trainer: Trainer, pl_module: DistillationModule, model: Any) -> ModelLogits:
        def to_device(batch: Batch) -> Batch:
            on_device: Batch = trainer.strategy.batch_to_device(batch, pl_module.device)
            return on_device

        def logits_fn(batch: Batch) -> Outputs:
            return pl_module.task.run(model, batch)

        datamodule = self._datamodule(trainer)
        with isolate_rng(), trainer.precision_plugin.forward_context(), unsharded_dataloaders(datamodule):
            sentences = self._sentences(trainer)
            sentences = None if sentences is None else to_device(sentences)
            split_logits = SplitLogits(single_process=True).to(pl_module.device)
            return collect_logits(
                "student", logits_fn, map(to_device, self._loader(trainer)), split_logits, logits_fn, sentences
            )[0]

    def _show(self, trainer: Trainer, pl_module: DistillationModule, target: Path, logits: list[ModelLogits]) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert pl_module.teacher is not None
        assert self._teacher_logits is not None
        sources = [" + ".join(pl_module.teacher.names), "of this run"][: len(logits)]
        raw = load_raw_split(self._datamodule(trainer), self.split)
        names = pl_module.label_names or []
        probe = build_probe_result(self.selection, sources, names, self.split, raw, self._teacher_logits[1], logits)
        console = Console(width=None if trainer.progress_bar_callback is not None else 160, emoji=False)
        write_probe_report(probe, target)
        for table in probe.tables():  # before the picture, which takes longer
            console.print(table)
        figure = plot.plot_probe(probe)
        write_probe_plot(figure, target)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("probe", probe.markdown(), trainer.global_step)
                logger.experiment.add_figure("probe", figure, trainer.global_step)
        rank_zero_info(f"Probe written to {target / 'probe.md'}")


def write_probe_report(probe: ProbeResult, folder: Path) -> None:
    """Write ``probe.md`` and ``probe.json``, each complete or not at all."""
    for name, text in (("probe.md", probe.markdown()), ("probe.json", probe.json())):
        with atomic_write(folder / name) as file:
            file.write_text(text, encoding="utf-8")


def write_probe_plot(figure: "Figure", folder: Path) -> None:
    """Write ``probe.png``, complete or not at all."""
    with atomic_write(folder / "probe.png") as file:
        figure.savefig(file, dpi=120)
