"""Keeps a checkpoint from which an interrupted run continues exactly."""

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

from lightning_kd.io.atomic import replace_path
from lightning_kd.io.checkpoint_io import AtomicCheckpointIO
from lightning_kd.training.accumulation import is_accumulating

SYNC_EVERY_N_STEPS = 16
"""With several devices the clocks are compared only every so many steps: each comparison is a broadcast."""

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
"""Exit status of a run that was told to end."""


def checkpoint_dir(trainer: Trainer) -> Path:
    """Where a run keeps its checkpoints: beside the best one, else in ``checkpoints`` in its log folder."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"


class LastCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` every few minutes, at the end of each epoch, and when training stops early.

    Also on SIGTERM, as schedulers send it before they end a job: the run goes on to the next point where it may be
    saved (with several devices, up to 16 steps) and ends there, with exit status 143.

    Within an epoch it is never written between the batches whose gradients are accumulated, nor on the last batch: a
    run resumed from either would not end in the same weights.

    Args:
        every_minutes: Minutes between two checkpoints within an epoch, >= 0; 0 writes after each optimiser step
            (with several devices, every 16).

    Raises:
        ValueError: If ``every_minutes`` is negative.
    """

    best_model_path = ""  # Lightning looks for it on every checkpoint callback when asked for ``ckpt_path="best"``

    def __init__(self, every_minutes: float = 2.0) -> None:
        if not every_minutes >= 0:
            raise ValueError(f"last_checkpoint.every_minutes: must be >= 0, got {every_minutes}")
        self.every_minutes = every_minutes
        self._saved_at = time.monotonic()
        self._sigterm_received = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have all checkpoints written whole and loaded safely, unless the user's own plugin does it."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and listen for SIGTERM until Lightning puts the former handler back."""
        self._saved_at = time.monotonic()
        self._sigterm_received = False
        if threading.current_thread() is threading.main_thread():
            # in place of Lightning's, which with several devices broadcasts from within the handler and hangs, and
            # with one ends the run after the batch at hand, whether or not it may be saved there
            signal.signal(signal.SIGTERM, self._handle_sigterm)

    def _handle_sigterm(self, *_: Any) -> None:
        self._sigterm_received = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time and the state is whole."""
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
        """Save at the end of the epoch; an epoch that was cut short was saved after its last batch."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)
            self._exit_on_sigterm(trainer)

    def _exit_on_sigterm(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._sigterm_received, all=False):
            rank_zero_info(f"Told to end (SIGTERM): the run can be continued from {checkpoint_dir(trainer)}")
            raise SIGTERMException(SIGTERM_EXIT_CODE)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        target = checkpoint_dir(trainer) / "last.ckpt"
        # a file is renamed by AtomicCheckpointIO; a folder, as strategies that shard may write, has to be here
        is_directory = getattr(trainer.strategy, "_save_distributed_checkpoint", False) or target.is_dir()
        temporary = target.with_name(".last.ckpt.tmp") if trainer.strategy.broadcast(is_directory) else target
        trainer.save_checkpoint(temporary, weights_only=False)
        if temporary != target and trainer.is_global_zero:
            replace_path(temporary, target)
        self._saved_at = time.monotonic()
