"""The trained student: its best weights, scores and files."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.interface import DataModuleInterface, get_datamodule
from lightning_kd.export.model_card import model_card
from lightning_kd.io import consolidation
from lightning_kd.models import sharding
from lightning_kd.tasks.base import Task
from lightning_kd.training.module import STATE_KEY, DistillationModule


@dataclass(frozen=True)
class TrainedStudent:
    """A student to export.

    Attributes:
        model: The student with its best weights, in eval mode on the CPU.
        task: The task it was trained for.
        datamodule: The data it was trained on.
        card: Text of its model card.
    """

    model: "transformers.PreTrainedModel"
    task: Task
    datamodule: DataModuleInterface
    card: str

    def save_config_and_tokenizer(self, folder: Path, **fields: Any) -> None:
        """Write the configuration and the tokenizer.

        Args:
            folder: The folder to write to.
            fields: Fields to add to the configuration.
        """
        config = copy.deepcopy(self.model.config)  # shared with the student in the module
        config.update({"architectures": [type(self.model).__name__], **fields})
        config.save_pretrained(folder)
        if isinstance(tokenizer := self.datamodule.tokenizer, PreTrainedTokenizerBase):
            tokenizer = copy.deepcopy(tokenizer)
            if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
                backend.no_truncation()  # left from the last call, which is skipped if the examples were cached
                backend.no_padding()
            tokenizer.save_pretrained(folder)

    def save_card(self, folder: Path, section: str = "") -> None:
        """Write the model card, with a section appended."""
        (folder / "README.md").write_text(self.card + section, encoding="utf-8")


def _best_checkpoint(trainer: Trainer) -> Path | None:
    """Return the best checkpoint by the monitored metric, or None if no metric was monitored."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            path = Path(callback.best_model_path)
            if path.is_file() or consolidation.is_sharded_checkpoint(path):
                return path
            rank_zero_warn(f"best checkpoint {path} not found; using the latest weights")
    return None


def best_scores(trainer: Trainer, pl_module: DistillationModule) -> dict[str, float]:
    """Return ``val/<metric>`` of the student at the best checkpoint, or at the latest validation without one."""
    path = _best_checkpoint(trainer)
    if path is None:
        return pl_module.validation_scores()
    scores: dict[str, float] = consolidation.read_metadata(path)[STATE_KEY]["scores"]
    return scores


def best_weights(trainer: Trainer, pl_module: DistillationModule) -> dict[str, torch.Tensor]:
    """Return the student's weights at the best checkpoint, or its current weights without one.

    Call it on every rank, because the student may be sharded. Rank 0 gets the weights.
    """
    path = trainer.strategy.broadcast(_best_checkpoint(trainer))
    if path is None:
        return sharding.full_state_dict(pl_module.student)
    if not trainer.is_global_zero:
        return {}
    prefix = "student."
    weights = consolidation.read_checkpoint(path)["state_dict"]
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def load_best_student(
    trainer: Trainer, pl_module: DistillationModule, weights: dict[str, torch.Tensor]
) -> TrainedStudent:
    """Return the best student of a run, ready to export.

    Args:
        trainer: The trainer after ``fit``.
        pl_module: The module that was fitted.
        weights: The student's best weights, see `best_weights`.
    """
    card = model_card(trainer, pl_module, best_scores(trainer, pl_module))
    return TrainedStudent(clone_student(pl_module, weights), pl_module.task, get_datamodule(trainer), card)


def clone_student(pl_module: DistillationModule, weights: dict[str, torch.Tensor]) -> "transformers.PreTrainedModel":
    """Return a copy of the student with the given weights, in eval mode on the CPU."""
    assert isinstance(pl_module.student, transformers.PreTrainedModel)
    model = type(pl_module.student)(pl_module.student.config)
    model.to(dtype=pl_module.student.dtype)  # type: ignore[call-arg]
    model.load_state_dict(weights)
    model.eval()
    return model
