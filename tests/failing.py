"""A failing callback for tests/training/test_watchdog.py."""

import os
import signal
import time

import torch
from lightning.pytorch import Callback


class FailingCallback(Callback):
    """Fails on one of two devices in the third step, or at the end.

    Args:
        mode: ``raise`` an error; ``nan``, a loss that is not finite; ``kill``, SIGKILL while the other process sleeps;
            or ``export``, an error at the end of ``fit``, where exporters run and the other process waits.
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
