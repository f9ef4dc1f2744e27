"""Terminate worker processes when the launching process dies."""

import os
import signal
import sys
import threading
import time

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer

GRACE_PERIOD = 10.0
"""Seconds in which a process may exit by itself after the launching process has died."""

THREAD_NAME = "lightning_kd.watchdog"


def exit_with_parent_process(trainer: Trainer) -> None:
    """Watch the launching process from a worker process that Lightning started, and exit when it dies.

    The launching process ends when one of its workers dies. Without this function nothing ends the workers when the
    launching process dies: they wait in a collective operation until its timeout. Under torchrun and SLURM, which watch
    all processes, it does nothing.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_worker = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
    if is_worker and all(thread.name != THREAD_NAME for thread in threading.enumerate()):
        threading.Thread(target=_watch_parent, args=(os.getppid(),), name=THREAD_NAME, daemon=True).start()


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    time.sleep(GRACE_PERIOD)
    print(f"The launching process {parent_pid} died; terminating process {os.getpid()}.", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
