"""No process of a run outlives the first one for long."""

import os
import signal
import sys
import threading
import time

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer

GRACE_PERIOD = 10.0
"""Seconds that a process has to end by itself when the first one is gone, on its own work or with an error."""

THREAD_NAME = "watchdog"


def exit_with_parent_process(trainer: Trainer) -> None:
    """Watch, in a process that Lightning started, over the one that started it.

    That one ends when one of those it started has died. The other way round nothing ends them: they would wait in a
    collective operation for as long as its timeout is. Under torchrun and SLURM, who watch over all, this does nothing.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_worker = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
    if is_worker and all(thread.name != THREAD_NAME for thread in threading.enumerate()):
        threading.Thread(target=_watch_parent, args=(os.getppid(),), name=THREAD_NAME, daemon=True).start()


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    time.sleep(GRACE_PERIOD)
    print(
        f"The first process of the run ({parent_pid}) is gone; ending {os.getpid()}, too.", file=sys.stderr, flush=True
    )
    os.kill(os.getpid(), signal.SIGKILL)
