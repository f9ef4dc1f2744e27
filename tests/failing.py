"""A callback that fails, for tests/test_dying.py."""

import os
import signal
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback


class Fail(Callback):
    """Fails on one of two devices in the third step, or at the end.

    Args:
        how: ``raise``, ``nan`` (the loss), ``kill`` (as with -9), or ``export`` (at the end, where exporters work).
        rank: The device.
    """

    def __init__(self, how: str, rank: int) -> None:
        self.how = how
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank != self.rank or batch_idx != 2 or self.how == "export":
            return
        self._note(trainer)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "raise":
            raise ValueError("the cause of it all")
        with torch.no_grad():
            pl_module.student.classifier.bias.fill_(torch.nan)

    def on_fit_end(self, trainer, pl_module):
        if self.how == "export":
            if trainer.global_rank == self.rank:
                self._note(trainer)
                raise ValueError("the cause of it all")
            trainer.strategy.barrier("exporter")

    def _note(self, trainer):
        Path(trainer.default_root_dir, "failed").write_text(str(time.time()), encoding="utf-8")
