"""A process that dies ends the run, and the log names the cause."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT

LAUNCHERS = {
    "lightning": ["-m"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"],
}
CASES = {
    ("lightning", "nan", 1): "train/hard is nan in epoch 0, step 2, for the examples",
    ("lightning", "kill", 0): "The launching process",
    ("torchrun", "export", 0): "lightning-kd: error: the cause of it all",
}


def session_processes(session: int) -> list[int]:
    """Return the running processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session_id = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session_id) == session and state != "Z":
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_all_processes_exit_and_report_the_cause(ddp_command, tmp_path):
    runs = {}
    for number, (launcher, mode, rank) in enumerate(CASES):
        arguments = [
            f"--trainer.default_root_dir={tmp_path / str(number)}",
            "--trainer.callbacks=tests.failing.FailingCallback",
        ]
        arguments += [f"--trainer.callbacks.mode={mode}", f"--trainer.callbacks.rank={rank}", "--trainer.max_epochs=1"]
        command = [sys.executable, *LAUNCHERS[launcher], *map(str, ddp_command), *arguments]
        with (tmp_path / f"{number}.log").open("w") as log:
            run = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        runs[run] = tmp_path / f"{number}.log"
    deadline = time.monotonic() + 120  # most of it is spent importing, in six processes at once
    try:
        while any(session_processes(run.pid) for run in runs) and time.monotonic() < deadline:
            time.sleep(0.2)
            [run.poll() for run in runs]
        for (run, log), (case, cause) in zip(runs.items(), CASES.items(), strict=True):
            text = log.read_text(encoding="utf-8")
            assert not session_processes(run.pid), (case, text[-2000:])
            assert run.poll() not in (0, None), case
            assert cause in text, (case, text[-2000:])
    finally:
        for run in runs:
            for process in session_processes(run.pid):
                os.kill(process, signal.SIGKILL)
            run.wait()
