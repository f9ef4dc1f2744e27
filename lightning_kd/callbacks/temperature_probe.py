"""Shows the effect of temperatures on the probabilities of teacher and student."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torch import Tensor

from lightning_kd.callbacks.base import DistillationModuleCallback, is_fast_dev_run, output_path
from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import get_datamodule
from lightning_kd.evaluation.batches import (
    Split,
    as_text_datamodule,
    check_split,
    check_split_name,
    split_dataloader,
    unsharded_dataloaders,
)
from lightning_kd.evaluation.temperature.logits import (
    ModelLogits,
    SplitLogits,
    collect_logits,
    encode_sentences,
    load_raw_split,
)
from lightning_kd.evaluation.temperature.plot import plot_probe, write_probe_plot, write_probe_report
from lightning_kd.evaluation.temperature.probe import build_probe_result
from lightning_kd.evaluation.temperature.selection import CALLBACK_NAME, Selection, check_named_labels
from lightning_kd.export.requirements import require_packages
from lightning_kd.export.student import best_weights, clone_student
from lightning_kd.io.atomic import check_writable
from lightning_kd.outputs import Batch
from lightning_kd.training.module import DistillationModule


class TemperatureProbe(DistillationModuleCallback):
    """Shows how the temperature changes the probabilities of the teacher and, after training, of the best student.

    For each sentence it shows the most and the least likely classes as bar charts and as a table, with the
    probabilities of the second and of the last class and their relative difference, (second - last) / second in %: how
    well a temperature lets the student distinguish wrong classes. Over the split it shows mean entropy, mass on wrong
    classes, expected calibration error, and agreement and divergence of teacher and student.

    It writes to the terminal, to ``probe.md``, ``probe.json`` and ``probe.png``, and to TensorBoard: the teacher before
    the first step, teacher and student at the end of ``fit``. The models run in the run's precision.

    Needs ``pip install 'lightning-kd[plots]'``.

    Args:
        sentences: Texts to show, at most 20; null = examples of the split.
        num_examples: Without ``sentences``, show this many examples for which the teacher is most confident (at
            temperature 1), and as many for which it is least confident, 1-10.
        temperatures: Temperatures, each > 0.
        top_k: Number of most likely classes to show, >= 1.
        bottom_k: Number of least likely classes to show, >= 1.
        split: The split to average over.
        output_dir: Folder to write; null = the run's log folder.

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
        check_split_name(split, CALLBACK_NAME)
        self.selection = Selection(sentences, num_examples, list(temperatures), top_k, bottom_k)
        self.split: Split = split
        self.output_dir = output_dir
        self._teacher_logits: tuple[ModelLogits, Tensor] | None = None

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check before training that the probe can run.

        Raises:
            ValueError: If there is no teacher, its classes are unnamed or too few, the data cannot be shown or has no
                labels, the folder cannot be written, or matplotlib is missing.
        """
        require_packages(CALLBACK_NAME, "plots", "matplotlib")
        check_named_labels(pl_module.task)
        if pl_module.active_teacher is None:
            raise ValueError(
                f"{CALLBACK_NAME}: no loss uses a teacher; remove the callback, and run lightning-kd probe "
                "--teacher <exported folder> after training"
            )
        check_split(self._datamodule(trainer), self.split, pl_module.task)
        pl_module.build_student()
        self.selection.check_num_classes(len(pl_module.label_names or []))
        self._encode_sentences(trainer)
        check_writable(output_path(trainer, self.output_dir) / "probe.md", f"{CALLBACK_NAME}.output_dir")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the teacher; each rank runs it on its share of the split."""
        module = self.distillation_module(pl_module)
        teacher = module.active_teacher
        assert teacher is not None
        logits_fn: Any = teacher
        cache = module.teacher_cache
        if cache is not None and cache.top_k is None:  # top_k keeps only the largest logits
            logits_fn = module.cached_teachers.get(self.split, teacher)
        with isolate_rng(), trainer.precision_plugin.forward_context():
            batches = map(module.to_device, split_dataloader(self._datamodule(trainer), self.split))
            split_logits = SplitLogits().to(module.device)
            sentences = self._encode_sentences(trainer)
            sentences = None if sentences is None else module.to_device(sentences)
            self._teacher_logits = collect_logits(
                "teacher", module.task, logits_fn, batches, split_logits, teacher, sentences
            )
        if cache is not None:
            teacher.unload()  # training may read only the cache
        self._show(trainer, module, output_path(trainer, self.output_dir), [self._teacher_logits[0]])

    def _datamodule(self, trainer: Trainer) -> TextDataModule:
        return as_text_datamodule(get_datamodule(trainer), CALLBACK_NAME)

    def _encode_sentences(self, trainer: Trainer) -> Batch | None:
        datamodule = self._datamodule(trainer)
        if self.selection.sentences is None:
            return None
        return encode_sentences(datamodule, load_raw_split(datamodule, self.split), self.selection.sentences)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show teacher and best student; rank 0 runs the student on the whole split."""
        if is_fast_dev_run(trainer) or self._teacher_logits is None:
            return
        module = self.distillation_module(pl_module)
        if not isinstance(module.student, transformers.PreTrainedModel):
            rank_zero_warn(f"{CALLBACK_NAME}: the student is not a transformers model; only the teacher is shown")
            return
        target, weights = output_path(trainer, self.output_dir), best_weights(trainer, module)
        try:
            if trainer.is_global_zero:
                model = clone_student(module, weights).to(module.device)  # type: ignore[arg-type]
                student = self._collect_student_logits(trainer, module, model)
                self._show(trainer, module, target, [self._teacher_logits[0], student])
        except Exception as error:  # training is complete, and other callbacks may use its result
            rank_zero_warn(f"{CALLBACK_NAME}: only the teacher is shown ({type(error).__name__}: {error})")
        self._teacher_logits = None
        trainer.strategy.barrier(CALLBACK_NAME)

    def _collect_student_logits(self, trainer: Trainer, pl_module: DistillationModule, model: Any) -> ModelLogits:
        datamodule = self._datamodule(trainer)
        to_device = partial(trainer.strategy.batch_to_device, device=pl_module.device)
        logits_fn = partial(pl_module.task.run, model)
        with isolate_rng(), trainer.precision_plugin.forward_context(), unsharded_dataloaders(datamodule):
            sentences = self._encode_sentences(trainer)
            sentences = None if sentences is None else to_device(sentences)
            split_logits = SplitLogits(single_process=True).to(pl_module.device)
            batches = map(to_device, split_dataloader(datamodule, self.split))
            task = pl_module.task
            return collect_logits("student", task, logits_fn, batches, split_logits, logits_fn, sentences)[0]

    def _show(self, trainer: Trainer, pl_module: DistillationModule, target: Path, logits: list[ModelLogits]) -> None:
        if not trainer.is_global_zero or is_fast_dev_run(trainer):
            return
        assert pl_module.teacher is not None
        assert self._teacher_logits is not None
        sources = [" + ".join(pl_module.teacher.names), "of this run"][: len(logits)]
        raw = load_raw_split(self._datamodule(trainer), self.split)
        names = pl_module.label_names or []
        probe = build_probe_result(self.selection, sources, names, self.split, raw, self._teacher_logits[1], logits)
        console = Console(width=None if trainer.progress_bar_callback is not None else 160, emoji=False)
        write_probe_report(probe, target)
        for table in probe.tables():  # before the plot, which takes longer
            console.print(table)
        figure = plot_probe(probe)
        write_probe_plot(figure, target)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("probe", probe.markdown(), trainer.global_step)
                logger.experiment.add_figure("probe", figure, trainer.global_step)
        rank_zero_info(f"Probe written to {target / 'probe.md'}")
