"""What callbacks have in common that write the best student into a folder."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from huggingface_hub import ModelCard
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from lightning_kd.callbacks.layer_initialization import LayerInitialization
from lightning_kd.data.interface import DataModuleInterface, get_datamodule
from lightning_kd.export.model_card import EXPORT_TAG, model_card
from lightning_kd.io import consolidation
from lightning_kd.io.atomic import atomic_directory, check_writable
from lightning_kd.models import sharding
from lightning_kd.tasks.base import Task
from lightning_kd.training.module import STATE_KEY, DistillationModule


@dataclass(frozen=True)
class TrainedStudent:
    """A student to be written.

    Attributes:
        model: With its best weights, in eval mode on the CPU.
        task: The task whose heads it has.
        datamodule: The data it was trained on.
        card: Text of its model card.
    """

    model: "transformers.PreTrainedModel"
    task: Task
    datamodule: DataModuleInterface
    card: str

    def save_config_and_tokenizer(self, folder: Path, **fields: Any) -> None:
        """Write tokenizer and configuration, to which fields may be added."""
        config = copy.deepcopy(self.model.config)  # shared with the student that was trained
        config.architectures = [type(self.model).__name__]
        for name, value in fields.items():
            setattr(config, name, value)
        config.save_pretrained(folder)
        if isinstance(tokenizer := self.datamodule.tokenizer, PreTrainedTokenizerBase):
            tokenizer = copy.deepcopy(tokenizer)
            if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
                backend.no_truncation()  # settings of the last call, and there is none where rows came from the cache
                backend.no_padding()
            tokenizer.save_pretrained(folder)

    def save_card(self, folder: Path, section: str = "") -> None:
        """Write the model card, with a section at its end."""
        (folder / "README.md").write_text(self.card + section, encoding="utf-8")


def _best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint by the validation metric, or None where none was monitored."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            path = Path(callback.best_model_path)
            if path.is_file() or consolidation.is_sharded_checkpoint(path):
                return path
            rank_zero_warn(f"the best checkpoint {path} is gone, so the latest weights are taken")
    return None


def best_scores(trainer: Trainer, pl_module: DistillationModule) -> dict[str, float]:
    """``val/<metric>`` of the student at the best checkpoint, or of the latest validation where there is none."""
    path = _best_checkpoint(trainer)
    if path is None:
        return pl_module.validation_scores()
    scores: dict[str, float] = consolidation.read_metadata(path)[STATE_KEY]["scores"]
    return scores


def best_weights(trainer: Trainer, pl_module: DistillationModule) -> dict[str, torch.Tensor]:
    """The student's weights at the best checkpoint, or as they are now where there is none.

    To be called on every device: the student may be divided among them. The first one gets the weights.
    """
    path = trainer.strategy.broadcast(_best_checkpoint(trainer))
    if path is None:
        assert pl_module.student is not None
        return sharding.full_state_dict(pl_module.student)
    if not trainer.is_global_zero:
        return {}
    prefix = "student."
    weights = consolidation.read_checkpoint(path)["state_dict"]
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def load_best_student(
    trainer: Trainer, pl_module: DistillationModule, weights: dict[str, torch.Tensor]
) -> TrainedStudent:
    """The best student of a run, to be written."""
    card = model_card(trainer, pl_module, best_scores(trainer, pl_module))
    return TrainedStudent(clone_student(pl_module, weights), pl_module.task, get_datamodule(trainer), card)


def clone_student(pl_module: DistillationModule, weights: dict[str, torch.Tensor]) -> "transformers.PreTrainedModel":
    """A network of its own with the weights, in eval mode on the CPU: the module's stays as it is."""
    assert isinstance(pl_module.student, transformers.PreTrainedModel)
    model = type(pl_module.student)(pl_module.student.config)
    model.to(dtype=pl_module.student.dtype)  # type: ignore[call-arg]
    model.load_state_dict(weights)
    model.eval()
    return model


class Export(Callback, ABC):
    """At the end of ``fit`` writes the best student into a folder, complete or not at all.

    The folder is written under another name and renamed when it is complete. A folder of an earlier export is
    replaced; any other folder that is not empty is refused before training.

    Attributes:
        dirname: Name of the folder in the run's log folder.
        config_key: What the callback's arguments are called in messages.
        description: What is written.
    """

    dirname: ClassVar[str]
    config_key: ClassVar[str]
    description: ClassVar[str]

    def __init__(self, output_dir: str | None = None) -> None:
        self.output_dir = output_dir

    def resolve_output_dir(self, trainer: Trainer) -> Path:
        """The folder that will be written."""
        if self.output_dir is not None:
            return Path(self.output_dir).expanduser().resolve()
        return Path(trainer.log_dir or trainer.default_root_dir) / self.dirname

    def variant_dirs(self, target: Path) -> list[Path]:
        """All folders that will be written: the target, and those of its twins."""
        return [target]

    def output_dirs(self, trainer: Trainer) -> list[Path]:
        """All folders that a run writes. To be asked on every device: log_dir is a broadcast."""
        return self.variant_dirs(self.resolve_output_dir(trainer))

    def check_installed(self) -> None:
        """Refuse to go on without the packages that are needed.

        Raises:
            ValueError: Names them and how to get them.
        """

    def check_output_dirs(self, target: Path, sources: Iterable[Path] = ()) -> None:
        """Refuse a target that is not ours to replace.

        Args:
            target: The folder that is going to be written.
            sources: Folders that must stay.

        Raises:
            ValueError: If a folder exists and is neither empty nor an earlier export, or if it is the current folder
                or one of the sources, holds or lies in them.
        """
        sources = [source.expanduser().resolve() for source in sources]
        for folder in self.variant_dirs(target):
            if source := next((s for s in sources if s.is_relative_to(folder) or folder.is_relative_to(s)), None):
                raise ValueError(
                    f"{self.config_key}.output_dir: {str(folder)!r} would overwrite or lie in {str(source)!r}, which "
                    f"the student "
                    "is made from or another callback writes; choose another folder"
                )
            if Path.cwd().is_relative_to(folder):  # it is going to be renamed
                raise ValueError(
                    f"{self.config_key}.output_dir: {str(folder)!r} is or holds the current folder; choose another "
                    f"folder"
                )
            check_writable(folder, f"{self.config_key}.output_dir")
            if folder.exists() and not _is_replaceable(folder):
                raise ValueError(
                    f"{self.config_key}.output_dir: {str(folder)!r} exists and is no earlier export; choose another "
                    f"folder"
                )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before training."""
        if stage != "fit":
            return
        self.check_installed()
        other_dirs = [
            folder for other in export_callbacks(trainer) if other is not self for folder in other.output_dirs(trainer)
        ]
        self.check_output_dirs(self.resolve_output_dir(trainer), [*other_dirs, *_model_source_dirs(trainer, pl_module)])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        if trainer.fast_dev_run or not isinstance(pl_module, DistillationModule):  # type: ignore[attr-defined]
            return
        target = self.resolve_output_dir(trainer)  # on every device: log_dir is a broadcast
        if not isinstance(pl_module.student, transformers.PreTrainedModel):
            rank_zero_warn("the student is no transformers model, so it is not exported; its weights are in last.ckpt")
            return
        weights = best_weights(trainer, pl_module)  # on every device, too
        if trainer.is_global_zero:
            self.write(target, load_best_student(trainer, pl_module, weights))
        trainer.strategy.barrier(self.dirname)

    def write(self, target: Path, student: TrainedStudent) -> None:
        """Fill a new folder and put it in the target's place."""
        with atomic_directory(target) as folder:
            self.write_files(folder, student)
        rank_zero_info(f"{self.description} written to {target}")

    @abstractmethod
    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """Write all files into an empty folder."""


def export_callbacks(trainer: Trainer) -> list[Export]:
    """The callbacks of a run that write the student."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Export)]  # type: ignore[attr-defined]


def _model_source_dirs(trainer: Trainer, pl_module: LightningModule) -> list[Path]:
    """The local folders that a run reads networks from."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    sources: list[Any] = [c.source for c in callbacks if isinstance(c, LayerInitialization)]
    if isinstance(pl_module, DistillationModule):
        source = pl_module._student_source
        sources.append(source.get("config") if isinstance(source, dict) else source)
        sources += [member.source for member in pl_module.teacher.models] if pl_module.teacher is not None else []
    return [Path(source) for source in sources if isinstance(source, str) and Path(source).expanduser().is_dir()]


def _is_replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        tags = ModelCard.load(folder / "README.md").data.tags
    except Exception:  # no file, no text, no YAML: somebody else's
        return False
    return (folder / "config.json").is_file() and isinstance(tags, list) and EXPORT_TAG in tags
