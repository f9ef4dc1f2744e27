"""A callback that fails, for tests/training/test_watchdog.py."""

import os
import signal
import time

import torch
from lightning.pytorch import Callback


class FailingCallback(Callback):
    """Fails on one of two devices in the third step, or at the end.

    Args:
        mode: ``raise``; ``nan`` (the loss); ``kill`` (as with -9), when the other one waits for nobody; or ``export``
            (at the end, where exporters work and the others wait).
        rank: The device.
    """

    def __init__(self, mode: str, rank: int) -> None:
        self.mode = mode
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        is_failing_rank = trainer.global_rank == self.rank
        if batch_idx != 2:
            return
        if self.mode == "raise" and is_failing_rank:
            raise ValueError("the cause of it all")
        if self.mode == "nan" and is_failing_rank:
            with torch.no_grad():
                pl_module.student.classifier.bias.fill_(torch.nan)
        if self.mode == "kill":
            if is_failing_rank:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)

    def on_fit_end(self, trainer, pl_module):
        if self.mode == "export":
            if trainer.global_rank == self.rank:
                raise ValueError("the cause of it all")
            trainer.strategy.barrier("exporter")
