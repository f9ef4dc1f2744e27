"""Base classes of the callbacks that export the best student."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import transformers
from huggingface_hub import ModelCard
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import nn

from lightning_kd import models
from lightning_kd.callbacks.base import DistillationModuleCallback, find_callbacks, is_fast_dev_run, output_path
from lightning_kd.callbacks.layer_initialization import LayerInitialization
from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import get_datamodule
from lightning_kd.evaluation.batches import as_text_datamodule, validation_batches
from lightning_kd.evaluation.parity import Parity, measure_parity
from lightning_kd.export.model_card import EXPORT_TAG
from lightning_kd.export.student import TrainedStudent, best_weights, load_best_student
from lightning_kd.io.atomic import atomic_directory, check_writable
from lightning_kd.outputs import Batch
from lightning_kd.training.module import DistillationModule


class Export(DistillationModuleCallback, ABC):
    """Writes the best student into a folder at the end of ``fit``, completely or not at all.

    The folder is written under a temporary name and then renamed. An earlier export is replaced; any other non-empty
    folder is an error before training.

    Args:
        output_dir: Folder to write; null = ``dirname`` in the run's log folder.

    Attributes:
        dirname: Name of the folder in the run's log folder.
        config_key: Prefix of the callback's arguments in messages.
        description: Name of the exported format in messages.
    """

    dirname: ClassVar[str]
    config_key: ClassVar[str]
    description: ClassVar[str]

    def __init__(self, output_dir: str | None = None) -> None:
        self.output_dir = output_dir

    def resolve_output_dir(self, trainer: Trainer) -> Path:
        """Return the folder to write; call it on every rank."""
        target = output_path(trainer, self.output_dir, self.dirname)
        return target if self.output_dir is None else target.resolve()

    def variant_dirs(self, target: Path) -> list[Path]:
        """Return all folders written for a target: the target and those of its variants, such as int8."""
        return [target]

    def output_dirs(self, trainer: Trainer) -> list[Path]:
        """Return all folders that a run writes; call it on every rank."""
        return self.variant_dirs(self.resolve_output_dir(trainer))

    def check_installed(self) -> None:
        """Raise if a package that the export needs is missing.

        Raises:
            ValueError: If a package is missing; the message contains the command that installs it.
        """

    def check_output_dirs(self, target: Path, sources: Iterable[Path] = ()) -> None:
        """Raise if the target must not be replaced.

        Args:
            target: The folder to write.
            sources: Folders that must not be overwritten.

        Raises:
            ValueError: If a folder exists and is neither empty nor an earlier export, if it is or contains the working
                directory, or if it overlaps with a source.
        """
        sources = [source.expanduser().resolve() for source in sources]
        for folder in self.variant_dirs(target):
            field = f"{self.config_key}.output_dir"
            if source := next((s for s in sources if s.is_relative_to(folder) or folder.is_relative_to(s)), None):
                raise ValueError(
                    f"{field}: {str(folder)!r} overlaps with {str(source)!r}, which the run reads or another callback "
                    "writes; choose another folder"
                )
            if Path.cwd().is_relative_to(folder):  # renaming it would move the working directory
                raise ValueError(
                    f"{field}: {str(folder)!r} is or contains the working directory; choose another folder"
                )
            check_writable(folder, field)
            if folder.exists() and not _is_replaceable(folder):
                raise ValueError(f"{field}: {str(folder)!r} exists and is not an earlier export; choose another folder")

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check packages and folders before training."""
        self.check_installed()
        others = [other for other in find_callbacks(trainer, Export) if other is not self]
        other_dirs = [folder for other in others for folder in other.output_dirs(trainer)]
        self.check_output_dirs(self.resolve_output_dir(trainer), [*other_dirs, *_model_source_dirs(trainer, pl_module)])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the best student."""
        self.export(trainer, self.distillation_module(pl_module))

    def export(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Export the best student of a run; call it on every rank."""
        if is_fast_dev_run(trainer):
            return
        target = self.resolve_output_dir(trainer)
        if not isinstance(pl_module.student, transformers.PreTrainedModel):
            rank_zero_warn(f"{self.config_key}: the student is not a transformers model; only checkpoints are written")
            return
        if trainer.global_step == 0 and _has_fresh_weights(trainer, pl_module):
            rank_zero_warn(f"{self.config_key}: nothing is exported, because the student's weights are random")
            return
        weights = best_weights(trainer, pl_module)
        if trainer.is_global_zero:
            self.write(target, load_best_student(trainer, pl_module, weights))
        trainer.strategy.barrier(self.dirname)

    def write(self, target: Path, student: TrainedStudent) -> None:
        """Write the folder, and replace an earlier one only when it is complete.

        Args:
            target: Folder to write.
            student: The best student.
        """
        with atomic_directory(target) as folder:
            self.write_files(folder, student)
        rank_zero_info(f"{self.description} written to {target}")

    @abstractmethod
    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """Write all files.

        Args:
            folder: Existing empty folder.
            student: The best student.
        """


MAX_LOGIT_DIFFERENCE = 1e-3
"""Maximum difference of a float32 logit; the different order of summation costs about 1e-5."""


class GraphExport(Export):
    """An export of a compiled graph, tried on the untrained student so that problems appear before training.

    Args:
        output_dir: Folder to write; null = ``dirname`` in the run's log folder.
        num_check_examples: Number of validation examples on which the graph is compared with the student, >= 1.

    Raises:
        ValueError: If ``num_check_examples`` is less than 1.
    """

    def __init__(self, output_dir: str | None = None, num_check_examples: int = 256) -> None:
        super().__init__(output_dir)
        if num_check_examples < 1:
            raise ValueError(f"{self.config_key}.num_check_examples: must be >= 1, got {num_check_examples}")
        self.num_check_examples = num_check_examples

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check data, packages and folders before training."""
        as_text_datamodule(get_datamodule(trainer), self.config_key)
        super().setup_fit(trainer, pl_module)

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export a freshly initialized student and discard the result."""
        student = self.distillation_module(pl_module).student
        if isinstance(student, transformers.PreTrainedModel):
            datamodule = as_text_datamodule(get_datamodule(trainer), self.config_key)
            self.dry_run(type(student)(student.config).eval(), datamodule)

    def compare(
        self,
        student: TrainedStudent,
        graph: nn.Module,
        tolerance: float | None,
        name: str = "the graph",
        batch_size: int | None = None,
    ) -> Parity:
        """Compare a graph with the student on examples of the validation split.

        Args:
            student: The best student.
            graph: The exported graph.
            tolerance: Difference of a logit that is an error; None = any is accepted.
            name: The graph, for the message.
            batch_size: Examples per batch; None = the DataModule's.

        Raises:
            FloatingPointError: If a logit of either is NaN or infinite.
            ValueError: If a logit differs by the tolerance or more.
        """
        datamodule = as_text_datamodule(student.datamodule, self.config_key)
        batches: Iterable[Batch] = validation_batches(datamodule, self.num_check_examples)
        if batch_size is not None:
            row_ids = [row_id for batch in batches for row_id in batch["row_id"].tolist()]
            batches = datamodule.subset_dataloader("validation", row_ids, batch_size)
        parity = measure_parity(student.task, student.model, graph, batches, name)
        if tolerance is not None and parity.max_difference >= tolerance:
            raise ValueError(
                f"{self.config_key}: the graph differs from the student ({parity}); please report this with the "
                "versions of torch, transformers, and onnxscript and onnxruntime or the Neuron compiler"
            )
        return parity

    @abstractmethod
    def dry_run(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Check that a model can be exported, without writing anything.

        Args:
            model: Freshly initialized student in eval mode.
            datamodule: The data, for example inputs.

        Raises:
            ValueError: If the model cannot be exported.
        """


def _has_fresh_weights(trainer: Trainer, pl_module: DistillationModule) -> bool:
    """Return True if the student or its head starts from fresh weights, neither loaded nor copied."""
    source = pl_module._student_source
    is_fresh = isinstance(source, dict) and "config" in source and not models.is_saved_config(source)
    return (is_fresh or bool(pl_module._fresh_weights)) and not find_callbacks(trainer, LayerInitialization)


def _model_source_dirs(trainer: Trainer, pl_module: DistillationModule) -> list[Path]:
    """Return the local folders that a run reads models from."""
    sources: list[Any] = [s for c in find_callbacks(trainer, DistillationModuleCallback) for s in c.model_sources()]
    student = pl_module._student_source
    sources.append(student.get("pretrained", student.get("config")) if isinstance(student, dict) else student)
    sources += [model.source for model in pl_module.teacher.models] if pl_module.teacher is not None else []
    return [Path(source) for source in sources if isinstance(source, str) and Path(source).expanduser().is_dir()]


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        tags = ModelCard.load(folder / "README.md").data.tags
    except Exception:  # no card, or one that this package did not write
        return False
    return (folder / "config.json").is_file() and isinstance(tags, list) and EXPORT_TAG in tags
