"""Keeps a checkpoint from which an interrupted run continues exactly."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

CHECK_EVERY = 16
"""With several devices the clocks are compared only every so many batches: each comparison is a broadcast."""


def checkpoint_folder(trainer: Trainer) -> Path:
    """Where a run keeps its checkpoints: beside the best one, else in ``checkpoints`` in its log folder."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"


class LastCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` every few minutes, at the end of each epoch, and when training stops early.

    Also on SIGTERM, as schedulers send it before they end a job; with several devices that may come too late.

    Within an epoch it is never written between the batches whose gradients are accumulated, nor on the last batch: a
    run resumed from either would not end in the same weights.

    Args:
        every_minutes: Minutes between two checkpoints within an epoch, >= 0; 0 writes after each optimiser step.

    Raises:
        ValueError: If ``every_minutes`` is negative.
    """

    best_model_path = ""  # Lightning looks for it on every checkpoint callback when asked for ``ckpt_path="best"``

    def __init__(self, every_minutes: float = 2.0) -> None:
        if not every_minutes >= 0:
            raise ValueError(f"last.every_minutes: must be >= 0, got {every_minutes}")
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time and the state is whole."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        stopping = trainer.should_stop or trainer.global_step == trainer.max_steps
        if trainer.world_size > 1 and batch_idx % CHECK_EVERY and not stopping:
            return
        due = stopping or time.monotonic() - self._saved_at >= 60 * self.every_minutes or trainer.received_sigterm
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of the epoch; an epoch that was cut short was saved after its last batch."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = checkpoint_folder(trainer)
        # Lightning writes to the system's temporary folder and moves the file, which is a copy where that is another
        # disk: rename within the folder, so that last.ckpt is whole whenever the run is killed
        trainer.save_checkpoint(folder / ".last.ckpt.tmp", weights_only=False)
        if trainer.is_global_zero:
            (folder / ".last.ckpt.tmp").replace(folder / "last.ckpt")
        self._saved_at = time.monotonic()
