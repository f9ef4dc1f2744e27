"""No process of a run outlives the first one for long."""

import os
import signal
import sys
import threading
import time

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer

GRACE = 10.0
"""Seconds that a process has to end by itself when the first one is gone, on its own work or with an error."""

NAME = "lifeline"


def end_with_first_process(trainer: Trainer) -> None:
    """Watch, in a process that Lightning started, over the one that started it.

    That one ends when one of those it started has died. The other way round nothing ends them: they would wait in a
    collective operation for as long as its timeout is. Under torchrun and SLURM, who watch over all, this does nothing.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
    if started and all(thread.name != NAME for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(os.getppid(),), name=NAME, daemon=True).start()


def _watch(first: int) -> None:
    while os.getppid() == first:
        time.sleep(1)
    time.sleep(GRACE)
    print(f"The first process of the run ({first}) is gone; ending {os.getpid()}, too.", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
