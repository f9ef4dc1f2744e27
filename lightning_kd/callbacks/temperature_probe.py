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

from lightning_kd.callbacks.compression_report import check_target
from lightning_kd.callbacks.export import best_weights, network_of
from lightning_kd.evaluation.batches import check_data, check_split, whole_splits
from lightning_kd.evaluation.report import STAGES, Split
from lightning_kd.evaluation.report_plot import check_installed
from lightning_kd.evaluation.temperature import plot
from lightning_kd.evaluation.temperature.compare import compare
from lightning_kd.evaluation.temperature.logits import Answers, SplitLogits, ask_about, raw_rows, sentence_batch
from lightning_kd.evaluation.temperature.probe import check_task
from lightning_kd.evaluation.temperature.result import Probe
from lightning_kd.evaluation.temperature.selection import WHO, Selection
from lightning_kd.io.atomic import check_writable, replaced_file
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
        rows: Without sentences: how many rows of the split with the highest probability of the teacher's likeliest
            class (at temperature 1) are shown, and how many with the lowest, from 1 to 10.
        temperatures: Each > 0.
        top_k: How many of the likeliest classes are shown, >= 1; all where there are fewer.
        bottom_k: How many of the least likely, >= 1.
        split: The split over which means are taken.
        folder: Where to write; null = the run's log folder.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sentences: list[str] | None = None,
        rows: int = 2,
        temperatures: Sequence[float] = (1.0, 5.0, 19.0),
        top_k: int = 5,
        bottom_k: int = 3,
        split: Split = "validation",
        folder: str | None = None,
    ) -> None:
        if split not in STAGES:
            raise ValueError(f"{WHO}.split: must be one of {', '.join(STAGES)}, got {split!r}")
        self.selection = Selection(sentences, rows, list(temperatures), top_k, bottom_k)
        self.split: Split = split
        self.folder = folder
        self._teacher: tuple[Answers, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training what can be checked.

        Raises:
            ValueError: If there is no teacher, its classes have no names or are too few, the data cannot be shown or
                have no labels, or matplotlib is missing.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(f"{WHO}: works on a DistillationModule, got {type(pl_module).__name__}")
        check_installed(WHO)
        check_task(pl_module.task)
        if pl_module.active_teacher is None:
            raise ValueError(
                f"{WHO}: there is no teacher that a loss reads; leave it out, and afterwards call lightning-kd probe "
                "--teacher <exported folder>"
            )
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        check_data(datamodule, WHO)
        check_split(datamodule, self.split)
        pl_module.build_student()
        self.selection.check_classes(len(pl_module.label_names or []))
        if self.selection.sentences is not None:
            sentence_batch(datamodule, raw_rows(datamodule, self.split), self.selection.sentences)
        target = self._target(trainer)
        check_target(target)
        check_writable(target / "probe.md", f"{WHO}.folder")

    def _target(self, trainer: Trainer) -> Path:
        """To be asked on every device: log_dir is a broadcast."""
        return Path(self.folder).expanduser() if self.folder else Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the teacher: each device asks it about its share of the split."""
        assert isinstance(pl_module, DistillationModule)
        teacher = pl_module.active_teacher
        assert teacher is not None
        ask: Any = teacher
        cache = pl_module.teacher_cache
        if cache is not None and cache.top_k is None:  # else its tails are made up
            ask = pl_module.cached_teachers.get(self.split, teacher)
        with isolate_rng(), trainer.precision_plugin.forward_context():
            batches = map(pl_module.to_device, self._loader(trainer))
            kept = SplitLogits().to(pl_module.device)
            sentences = self._sentences(trainer)
            sentences = None if sentences is None else pl_module.to_device(sentences)
            self._teacher = ask_about("teacher", ask, batches, kept, teacher, sentences)
        if cache is not None:
            teacher.unload()  # it may not be needed again
        self._show(trainer, pl_module, self._target(trainer), [self._teacher[0]])

    def _loader(self, trainer: Trainer) -> Any:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        datamodule.setup(STAGES[self.split])
        return datamodule.test_dataloader() if self.split == "test" else datamodule.val_dataloader()

    def _sentences(self, trainer: Trainer) -> Batch | None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        sentences = self.selection.sentences
        return None if sentences is None else sentence_batch(datamodule, raw_rows(datamodule, self.split), sentences)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the best student beside it; the first device asks it about the whole split."""
        if trainer.fast_dev_run or self._teacher is None or not isinstance(pl_module, DistillationModule):  # type: ignore[attr-defined]
            return
        if not isinstance(pl_module.student, transformers.PreTrainedModel):
            rank_zero_warn(f"{WHO}: the student is no transformers model, so only the teacher is shown")
            return
        target, weights = self._target(trainer), best_weights(trainer, pl_module)  # on every device
        try:
            if trainer.is_global_zero:
                network = network_of(pl_module, weights).to(pl_module.device)  # type: ignore[arg-type]
                student = self._ask_student(trainer, pl_module, network)
                self._show(trainer, pl_module, target, [self._teacher[0], student])
        except Exception as error:  # training is done, and others may want to do something with it
            rank_zero_warn(f"{WHO}: only the teacher is shown ({type(error).__name__}: {error})")
        self._teacher = None
        trainer.strategy.barrier(WHO)

    def _ask_student(self, trainer: Trainer, pl_module: DistillationModule, network: Any) -> Answers:
        def here(batch: Batch) -> Batch:
            moved: Batch = trainer.strategy.batch_to_device(batch, pl_module.device)
            return moved

        def ask(batch: Batch) -> Outputs:
            return pl_module.task.run(network, batch)

        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        with isolate_rng(), trainer.precision_plugin.forward_context(), whole_splits(datamodule):
            sentences = self._sentences(trainer)
            sentences = None if sentences is None else here(sentences)
            kept = SplitLogits(alone=True).to(pl_module.device)
            return ask_about("student", ask, map(here, self._loader(trainer)), kept, ask, sentences)[0]

    def _show(self, trainer: Trainer, pl_module: DistillationModule, target: Path, answers: list[Answers]) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert pl_module.teacher is not None
        assert self._teacher is not None
        sources = [" + ".join(pl_module.teacher.names), "of this run"][: len(answers)]
        raw = raw_rows(trainer.datamodule, self.split)  # type: ignore[attr-defined]
        names = pl_module.label_names or []
        probe = compare(self.selection, sources, names, self.split, raw, self._teacher[1], answers)
        console = Console(width=None if trainer.progress_bar_callback is not None else 160, emoji=False)
        write_texts(probe, target)
        for table in probe.tables():  # before the picture, which takes longer
            console.print(table)
        figure = plot.draw(probe)
        write_picture(figure, target)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("probe", probe.markdown(), trainer.global_step)
                logger.experiment.add_figure("probe", figure, trainer.global_step)
        rank_zero_info(f"Probe written to {target / 'probe.md'}")


def write_texts(probe: Probe, folder: Path) -> None:
    """Write ``probe.md`` and ``probe.json``, each complete or not at all."""
    for name, text in (("probe.md", probe.markdown()), ("probe.json", probe.json())):
        with replaced_file(folder / name) as file:
            file.write_text(text, encoding="utf-8")


def write_picture(figure: "Figure", folder: Path) -> None:
    """Write ``probe.png``, complete or not at all."""
    with replaced_file(folder / "probe.png") as file:
        figure.savefig(file, dpi=120)
