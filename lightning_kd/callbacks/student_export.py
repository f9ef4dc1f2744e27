"""Writes the best student as an ordinary Hugging Face folder."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_kd.callbacks.model_card import MARK, model_card
from lightning_kd.module import STATE_KEY, DistillationModule


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint by the validation metric, or None where none was monitored."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            path = Path(callback.best_model_path)
            if path.is_file():
                return path
            rank_zero_warn(f"the best checkpoint {path} is gone, so the latest weights are taken")
    return None


def best_state(trainer: Trainer, pl_module: DistillationModule) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The student's weights and validation scores at the best checkpoint, or as they are now where there is none."""
    path = best_checkpoint(trainer)
    if path is None:
        weights, scores = pl_module.state_dict(), pl_module.validation_scores()
    else:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights, scores = checkpoint["state_dict"], checkpoint[STATE_KEY]["scores"]
    prefix = "student."
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}, scores


class StudentExport(Callback):
    """At the end of ``fit`` writes the best student: weights, tokenizer, label names and a model card.

    The folder is written under another name and renamed when it is complete. A folder of an earlier export is
    replaced; any other folder that is not empty is refused before training.

    Args:
        folder: Where to write; null = ``student`` in the run's log folder.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def target(self, trainer: Trainer) -> Path:
        """The folder that will be written."""
        if self.folder is not None:
            return Path(self.folder).expanduser().resolve()
        return Path(trainer.log_dir or trainer.default_root_dir) / "student"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a target that is not ours to replace.

        Raises:
            ValueError: If the folder exists and is neither empty nor an earlier export, or if it is the current
                folder or holds it.
        """
        target = self.target(trainer)
        if stage == "fit" and Path.cwd().is_relative_to(target):  # it is going to be renamed
            raise ValueError(f"export.folder: {str(target)!r} is or holds the current folder; choose another folder")
        if stage == "fit" and target.exists() and not _replaceable(target):
            raise ValueError(f"export.folder: {str(target)!r} exists and is no earlier export; choose another folder")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        if trainer.fast_dev_run or not isinstance(pl_module, DistillationModule):  # type: ignore[attr-defined]
            return
        target = self.target(trainer)  # on every device: log_dir is a broadcast
        if not isinstance(pl_module.student, PreTrainedModel):
            rank_zero_warn("the student is no transformers model, so it is not exported; its weights are in last.ckpt")
            return
        if trainer.is_global_zero:
            write_student(target, trainer, pl_module, pl_module.student)
        trainer.strategy.barrier("student export")
        rank_zero_info(f"Student written to {target}")


def write_student(target: Path, trainer: Trainer, pl_module: DistillationModule, student: PreTrainedModel) -> None:
    """Write weights, tokenizer and card to a new folder, then put it in the target's place."""
    weights, scores = best_state(trainer, pl_module)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        student.save_pretrained(fresh, state_dict=weights)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(getattr(datamodule, "tokenizer", None), PreTrainedTokenizerBase):
            datamodule.tokenizer.save_pretrained(fresh)
        (fresh / "README.md").write_text(model_card(trainer, pl_module, scores), encoding="utf-8")
        if target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            target.rename(old)
            try:
                fresh.rename(target)
            except BaseException:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        tags = ModelCard.load(folder / "README.md").data.tags
    except Exception:  # no file, no text, no YAML: somebody else's
        return False
    return (folder / "config.json").is_file() and isinstance(tags, list) and MARK in tags
