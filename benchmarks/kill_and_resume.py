"""Kill a run at random moments, resume it each time, and compare the result bit for bit with an uninterrupted run.

A run is killed with SIGKILL at a random moment within the duration of an uninterrupted run, including startup and
export. Every second kill then waits until last.ckpt, best.ckpt or the exported student, in turn, is partly written. The
run is resumed with ``fit --resume``, or restarted if it has no last.ckpt yet. When a run finishes, its results are
compared, and a new run takes the remaining kills. Each run has a separate folder and a separate cache of tokenized
examples; ``{folder}`` in an override is replaced by the run's folder.

    python benchmarks/kill_and_resume.py <folder> --config configs/clinc150/distill.yaml [override ...]

Exit status 1 if anything differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

MAIN = (
    "import faulthandler, signal; faulthandler.register(signal.SIGUSR1); from lightning_kd.cli.main import main; main()"
)
"""``lightning-kd`` that prints its stack on SIGUSR1."""

PARTIAL_FILES = {
    "writing last.ckpt": "checkpoints/.last.ckpt.{}.tmp.ckpt",
    "writing best.ckpt": "checkpoints/.best.ckpt.{}.tmp.ckpt",
    "writing the student": ".student.{}.tmp/model.safetensors",
}
"""Files in a run folder that exist only while the process with the given id is writing."""

PHASES = {
    "callbacks/last_checkpoint.py": "writing last.ckpt",
    "callbacks/model_checkpoint.py": "writing best.ckpt",
    "callbacks/export_base.py": "exporting",
    "lightning_kd/teachers/checks.py": "scoring the teacher",
    "loops/evaluation_loop.py": "validating",
    "loops/training_epoch_loop.py": "training",
    "_restore_modules_and_callbacks": "restoring",
    "datasets/arrow_dataset.py": "loading examples",
    "lightning_kd/training/module.py": "setting up",
    "lightning_kd/cli/fit.py": "starting",
}
"""Phase of a run by the first of these that its stack contains."""


@dataclass
class Run:
    """A run that can be started, killed and resumed.

    Args:
        root: Folder of the run.
        arguments: Arguments of ``fit``.
    """

    root: Path
    arguments: list[str]

    @property
    def run_dir(self) -> Path:
        """The newest run folder; each restart creates another."""
        folders = (self.root / "lightning_logs").glob("version_*")
        return max(folders, key=lambda folder: int(folder.name.split("_")[1]), default=self.root)

    @property
    def last_checkpoint(self) -> Path:
        """Path of last.ckpt, which need not exist."""
        return self.run_dir / "checkpoints" / "last.ckpt"

    def start(self) -> subprocess.Popen[bytes]:
        """Resume the run, or restart it if there is no last.ckpt."""
        arguments = ["--resume", str(self.run_dir)]
        if not self.last_checkpoint.exists():
            arguments = [argument.replace("{folder}", str(self.root)) for argument in self.arguments]
            arguments.append(f"--trainer.default_root_dir={self.root}")
        self.root.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HF_DATASETS_CACHE": str(self.root / "datasets")}
        with (self.root / "output.txt").open("wb") as output:
            command = [sys.executable, "-c", MAIN, "fit", *arguments]
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def saved_steps(self) -> int:
        """Return the number of steps in last.ckpt."""
        if not self.last_checkpoint.exists():
            return 0
        return int(torch.load(self.last_checkpoint, weights_only=True, mmap=True)["global_step"])

    def phase(self, process: subprocess.Popen[bytes]) -> str:
        """Return the phase that a process of this run is in."""
        output = self.root / "output.txt"
        size = output.stat().st_size
        process.send_signal(signal.SIGUSR1)
        while output.stat().st_size == size and process.poll() is None:
            time.sleep(0.001)
        stack = output.read_bytes()[size:].decode(errors="replace")
        return next((phase for part, phase in PHASES.items() if part in stack), "importing" if stack else "Python")

    def differences(self, reference: "Run") -> list[str]:
        """Return the names of tensors, files and values that are not equal, bit for bit, to those of another run."""
        actual, expected = (torch.load(run.last_checkpoint, weights_only=True, mmap=True) for run in (self, reference))
        names = [name for name in ("global_step", "lr_schedulers") if actual[name] != expected[name]]
        pairs = {name: (actual["state_dict"][name], tensor) for name, tensor in expected["state_dict"].items()}
        for parameter, expected_state in expected["optimizer_states"][0]["state"].items():
            state = actual["optimizer_states"][0]["state"][parameter]
            pairs |= {f"{name} of {parameter}": (state[name], tensor) for name, tensor in expected_state.items()}
        names += [name for name, tensors in pairs.items() if not torch.equal(*tensors)]
        for expected_file in sorted((reference.run_dir / "student").iterdir()):
            file = self.run_dir / "student" / expected_file.name
            if not file.exists() or file.read_bytes() != expected_file.read_bytes():
                names.append(f"student/{file.name}")
        return names


def kill(run: Run, process: subprocess.Popen[bytes], delay: float, target: str | None) -> tuple[float, str] | None:
    """Kill a process after a delay.

    Args:
        run: The run.
        process: The process of the run.
        delay: Seconds to wait.
        target: If not None, wait after the delay until this key of ``PARTIAL_FILES`` is partly written.

    Returns:
        The seconds that the process ran and its phase; None if it ended before.
    """
    started = time.monotonic()
    while process.poll() is None:
        elapsed = time.monotonic() - started
        if elapsed >= delay and (target is None or (run.run_dir / PARTIAL_FILES[target].format(process.pid)).exists()):
            phase = run.phase(process) if target is None else target
            process.kill()
            process.wait()
            return elapsed, phase
        time.sleep(0.001)
    return None


def main() -> int:
    """Run, print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the runs; must not exist")
    parser.add_argument("--kills", type=int, default=20, help="total number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments (default: %(default)s)")
    args, overrides = parser.parse_known_args()
    if args.folder.exists():
        parser.error(f"folder: {args.folder} exists; choose a new folder")
    folder, generator, num_failed = args.folder.resolve(), random.Random(args.seed), 0
    reference = Run(folder / "uninterrupted", overrides)
    started = time.monotonic()
    if reference.start().wait():
        sys.exit(f"the uninterrupted run failed, see {reference.root / 'output.txt'}")
    duration = time.monotonic() - started
    title = f"uninterrupted: {duration:.0f} s, {reference.saved_steps()} steps"
    table = Table("kill", "run", "after (s)", "phase", "saved steps", title=title)
    runs = kills = 0
    while True:
        runs += 1
        run = Run(folder / f"killed_{runs}", overrides)
        while True:
            process = run.start()
            delay = generator.uniform(0, duration) if kills < args.kills else float("inf")
            target = list(PARTIAL_FILES)[kills // 2 % len(PARTIAL_FILES)] if kills % 2 else None
            killed = kill(run, process, delay, target)
            if killed is None:
                break
            kills += 1
            table.add_row(str(kills), str(runs), f"{killed[0]:.1f}", killed[1], str(run.saved_steps()))
        if process.returncode:
            result = f"failed, see {run.root / 'output.txt'}"
        else:
            result = ", ".join(run.differences(reference)) or "equal"
        num_failed += result != "equal"
        table.add_row("", str(runs), "", f"finished: {result:.300}", str(run.saved_steps()), end_section=True)
        print(f"run {runs}, {kills} kills: {result}", flush=True)
        if kills >= args.kills:
            break
    Console(width=120).print(table)
    summary = f"{num_failed} runs failed or differ" if num_failed else "equal bit for bit"
    print(f"{kills} kills in {runs} runs: {summary}")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
