"""Kill a run at random moments, resume it each time, and compare what is left with an unbroken run bit for bit.

A run is killed with SIGKILL at a moment that is drawn from the whole life of an unbroken run, start-up and export
included; every second kill then waits for last.ckpt, best.ckpt, the exported student in turn to be half written. It is
resumed with ``fit --resume``, or started again where it has no last.ckpt yet. A run that ends in spite of this is
compared, and the next one takes the remaining kills. Each run has a folder and a cache of tokenised rows of its own;
``{folder}`` in an override stands for that folder.

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
"""``lightning-kd`` that says where it is when it is asked."""

AIMS = {
    "writing last.ckpt": "checkpoints/.last.ckpt.{}.tmp.ckpt",
    "writing best.ckpt": "checkpoints/.best.ckpt.{}.tmp.ckpt",
    "writing the student": ".student.{}.tmp/model.safetensors",
}
"""What a run folder holds while a process has something half written."""

PLACES = {
    "callbacks/last_checkpoint.py": "writing last.ckpt",
    "callbacks/model_checkpoint.py": "writing best.ckpt",
    "callbacks/export.py": "exporting",
    "lightning_kd/teachers/checks.py": "scoring the teacher",
    "loops/evaluation_loop.py": "validating",
    "loops/training_epoch_loop.py": "training",
    "_restore_modules_and_callbacks": "restoring",
    "datasets/arrow_dataset.py": "loading rows",
    "lightning_kd/training/module.py": "setting up",
    "lightning_kd/cli/fit.py": "starting",
}
"""Where a run is, by the first of these in its stack."""


@dataclass
class Run:
    """A run that is started, killed and resumed.

    Attributes:
        root: Its folder.
        arguments: Of ``fit``.
    """

    root: Path
    arguments: list[str]

    @property
    def folder(self) -> Path:
        """The newest run folder: a run that is started again gets another."""
        folders = (self.root / "lightning_logs").glob("version_*")
        return max(folders, key=lambda folder: int(folder.name.split("_")[1]), default=self.root)

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def start(self) -> subprocess.Popen[bytes]:
        """Resume, or start again if there is nothing to resume."""
        arguments = ["--resume", str(self.folder)]
        if not self.last.exists():
            arguments = [argument.replace("{folder}", str(self.root)) for argument in self.arguments]
            arguments.append(f"--trainer.default_root_dir={self.root}")
        self.root.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HF_DATASETS_CACHE": str(self.root / "datasets")}
        with (self.root / "output.txt").open("wb") as output:
            command = [sys.executable, "-c", MAIN, "fit", *arguments]
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def steps(self) -> int:
        """Steps that are safe."""
        return int(torch.load(self.last, weights_only=True, mmap=True)["global_step"]) if self.last.exists() else 0

    def place(self, process: subprocess.Popen[bytes]) -> str:
        """Ask the process where it is."""
        output = self.root / "output.txt"
        said = output.stat().st_size
        process.send_signal(signal.SIGUSR1)
        while output.stat().st_size == said and process.poll() is None:
            time.sleep(0.001)
        stack = output.read_bytes()[said:].decode(errors="replace")
        return next((place for part, place in PLACES.items() if part in stack), "importing" if stack else "Python")

    def differences(self, whole: "Run") -> list[str]:
        """What is not the same as in an unbroken run, bit for bit."""
        ours, theirs = (torch.load(run.last, weights_only=True, mmap=True) for run in (self, whole))
        differing = [name for name in ("global_step", "lr_schedulers") if ours[name] != theirs[name]]
        pairs = {name: (tensor, ours["state_dict"][name]) for name, tensor in theirs["state_dict"].items()}
        for number, state in theirs["optimizer_states"][0]["state"].items():
            own = ours["optimizer_states"][0]["state"][number]
            pairs |= {f"{name} of parameter {number}": (tensor, own[name]) for name, tensor in state.items()}
        differing += [name for name, (one, other) in pairs.items() if not torch.equal(one, other)]
        for file in sorted((whole.folder / "student").iterdir()):
            own_file = self.folder / "student" / file.name
            if not own_file.exists() or own_file.read_bytes() != file.read_bytes():
                differing.append(f"student/{file.name}")
        return differing


def kill(run: Run, process: subprocess.Popen[bytes], moment: float, aim: str | None) -> tuple[float, str] | None:
    """Kill a process at a moment, or when the aim is half written after it.

    Returns:
        Seconds it lived and where it was; None if it ended before.
    """
    started = time.monotonic()
    while process.poll() is None:
        lived = time.monotonic() - started
        if lived >= moment and (aim is None or (run.folder / AIMS[aim].format(process.pid)).exists()):
            place = run.place(process) if aim is None else aim
            process.kill()
            process.wait()
            return lived, place
        time.sleep(0.001)
    return None


def main() -> int:
    """Run, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs go; must not exist")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    args, overrides = parser.parse_known_args()
    if args.folder.exists():
        parser.error(f"folder: {args.folder} exists; name a new one")
    folder, draw, failed = args.folder.resolve(), random.Random(args.seed), 0
    whole = Run(folder / "whole", overrides)
    started = time.monotonic()
    if whole.start().wait():
        sys.exit(f"the unbroken run fails, see {whole.root / 'output.txt'}")
    life = time.monotonic() - started
    table = Table(
        "kill", "run", "after (s)", "where", "safe steps", title=f"unbroken: {life:.0f} s, {whole.steps()} steps"
    )
    runs = kills = 0
    while True:
        runs += 1
        run = Run(folder / f"killed_{runs}", overrides)
        while True:
            process = run.start()
            moment = draw.uniform(0, life) if kills < args.kills else float("inf")
            aim = list(AIMS)[kills // 2 % len(AIMS)] if kills % 2 else None
            killed = kill(run, process, moment, aim)
            if killed is None:
                break
            kills += 1
            table.add_row(str(kills), str(runs), f"{killed[0]:.1f}", killed[1], str(run.steps()))
        if process.returncode:
            result = f"failed, see {run.root / 'output.txt'}"
        else:
            result = ", ".join(run.differences(whole)) or "the same"
        failed += result != "the same"
        table.add_row("", str(runs), "", f"ended: {result:.300}", str(run.steps()), end_section=True)
        print(f"run {runs}, {kills} kills: {result}", flush=True)
        if kills >= args.kills:
            break
    Console(width=120).print(table)
    print(f"{kills} kills of {runs} runs: " + (f"{failed} runs differ" if failed else "the same bit for bit"))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
