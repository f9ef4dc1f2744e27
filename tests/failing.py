"""A callback that fails, for tests/training/test_watchdog.py."""

import os
import signal
import time

import torch
from lightning.pytorch import Callback


class Fail(Callback):
    """Fails on one of two devices in the third step, or at the end.

    Args:
        how: ``raise``; ``nan`` (the loss); ``kill`` (as with -9), when the other one waits for nobody; or ``export``
            (at the end, where exporters work and the others wait).
        rank: The device.
    """

    def __init__(self, how: str, rank: int) -> None:
        self.how = how
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        here = trainer.global_rank == self.rank
        if batch_idx != 2:
            return
        if self.how == "raise" and here:
            raise ValueError("the cause of it all")
        if self.how == "nan" and here:
            with torch.no_grad():
                pl_module.student.classifier.bias.fill_(torch.nan)
        if self.how == "kill":
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)

    def on_fit_end(self, trainer, pl_module):
        if self.how == "export":
            if trainer.global_rank == self.rank:
                raise ValueError("the cause of it all")
            trainer.strategy.barrier("exporter")
