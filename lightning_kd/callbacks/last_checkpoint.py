"""Checkpoint from which an interrupted run resumes exactly."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_kd.callbacks.base import is_fast_dev_run, output_path
from lightning_kd.io.atomic import replace_path
from lightning_kd.io.checkpoint_io import AtomicCheckpointIO
from lightning_kd.training.accumulation import is_accumulating

SYNC_EVERY_N_STEPS = 16
"""Number of steps between two comparisons of the ranks' clocks, each of which is a collective operation."""

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
"""Exit status of a run that received SIGTERM."""


def checkpoint_dir(trainer: Trainer) -> Path:
    """Return the folder of the best checkpoint; without one, ``checkpoints`` in the run's log folder."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return output_path(trainer, default="checkpoints")


class LastCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` every few minutes, at the end of each epoch, and when training stops early.

    On SIGTERM, which job schedulers send before they stop a job, training continues to the next step at which it can be
    saved (with several devices, up to 16 steps), saves, and exits with status 143.

    Within an epoch it never saves between batches whose gradients are accumulated, nor on the last batch, because a
    run resumed from there would not end in the same weights.

    Args:
        every_minutes: Minutes between checkpoints within an epoch, >= 0; 0 saves after each optimizer step (with
            several devices, every 16 steps).

    Raises:
        ValueError: If ``every_minutes`` is negative.
    """

    best_model_path = ""  # Lightning reads it from all checkpoint callbacks for ``ckpt_path="best"``

    def __init__(self, every_minutes: float = 2.0) -> None:
        if not every_minutes >= 0:
            raise ValueError(f"last_checkpoint.every_minutes: must be >= 0, got {every_minutes}")
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._sigterm_received = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make all checkpoint writes atomic and loads safe, unless the user set another checkpoint plugin."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and handle SIGTERM until Lightning restores the previous handler."""
        self._saved_at = time.monotonic()
        self._sigterm_received = False
        if threading.current_thread() is threading.main_thread():
            # replaces the handler of Lightning (2.6), which hangs in a broadcast with several devices, and with one
            # stops after the current batch, even where training cannot be saved
            signal.signal(signal.SIGTERM, self._handle_sigterm)

    def _handle_sigterm(self, *_: Any) -> None:
        self._sigterm_received = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due and no gradients are being accumulated."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or is_accumulating(trainer):
            return
        stopping = trainer.should_stop or trainer.global_step == trainer.max_steps
        if trainer.world_size > 1 and trainer.global_step % SYNC_EVERY_N_STEPS and not stopping:
            return
        due = stopping or self._sigterm_received or time.monotonic() - self._saved_at >= 60 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)
            self._exit_on_sigterm(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of the epoch; an epoch that stopped early was saved after its last batch."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)
            self._exit_on_sigterm(trainer)

    def _exit_on_sigterm(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._sigterm_received, all=False):
            path = checkpoint_dir(trainer) / "last.ckpt"
            rank_zero_info(f"Received SIGTERM; saved {path} (resume with fit --resume)")
            raise SIGTERMException(SIGTERM_EXIT_CODE)

    def _save(self, trainer: Trainer) -> None:
        if is_fast_dev_run(trainer):
            return
        target = checkpoint_dir(trainer) / "last.ckpt"
        # AtomicCheckpointIO renames files; the folders that sharding strategies may write are renamed here
        is_directory = getattr(trainer.strategy, "_save_distributed_checkpoint", False) or target.is_dir()
        temporary = target.with_name(".last.ckpt.tmp") if trainer.strategy.broadcast(is_directory) else target
        trainer.save_checkpoint(temporary, weights_only=False)
        if temporary != target and trainer.is_global_zero:
            replace_path(temporary, target)
        self._saved_at = time.monotonic()
