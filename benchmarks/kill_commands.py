"""Interrupt each command at random moments, run it again, and compare what it writes with an uninterrupted run.

The signals take turns: SIGKILL, SIGTERM, SIGINT (Ctrl-C), and SIGSTOP followed two seconds later by SIGCONT, after
which the command must end by itself. After each signal, a file that has its final name must have its final content;
then the same command runs again (``fit`` with ``--resume`` if there is a checkpoint), and all files must be as in the
uninterrupted run, apart from times measured. A study of ``tune``, whose sampler starts anew, must have all its trials
once. Uses the quickstart's data and models; offline.

    python benchmarks/kill_commands.py <new folder> --kills 20 [--commands fit cache tune probe report export predict]

Exit status 1 if anything differs.
"""

import argparse
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)

COMMANDS = {
    "fit": ["fit", "--config", QUICKSTART / "distill.yaml", "--model.teacher={models}/teacher",
            "--trainer.default_root_dir={out}", "--last_checkpoint.every_minutes=0"],
    "cache": ["cache", "--config", QUICKSTART / "distill.yaml", "--model.teacher={models}/teacher",
              "--model.teacher_cache={out}/cache"],
    "tune": ["tune", "--config", QUICKSTART / "distill.yaml", "--model.teacher={models}/teacher",
             "--search_space", QUICKSTART / "tune" / "space.py:space", "--n_trials=4", "--seed=0", "--pruner=none",
             "--trainer.max_epochs=2", "--output_dir={out}/study"],
    "probe": ["probe", "--teacher={models}/teacher", "--student={models}/student", "{data}",
              "--output_dir={out}/probe"],
    "report": ["report", "--models", "{models}/teacher", "{models}/student", "{data}", "--output_dir={out}/report"],
    "export": ["export", "onnx", "--model={models}/student", "{data}", "--output_dir={out}/onnx"],
    "predict": ["predict", "--config", QUICKSTART / "distill.yaml", "--model.teacher=null",
                "--ckpt_path={models}/best.ckpt", "--trainer.default_root_dir={out}"],
}  # fmt: skip
"""Arguments of each command; ``{data}`` stands for the arguments of the quickstart's data."""

NOT_COMPARED = re.compile(r"events\.out|study/trial|study\.db|best\.yaml|\.lock|\.png$|hparams|config.*yaml|report\.md")
"""Files with times, paths or random ids."""


def arguments(name: str, out: Path, models: Path) -> list[str]:
    """Return the command line of a command, without the program."""
    data = ["--data", "CLINC150DataModule", f"--data.path={ROOT / 'lightning_kd/data/quickstart'}"]
    parts: list[str] = []
    for part in map(str, COMMANDS[name]):
        parts += data if part == "{data}" else [part.format(out=out, models=models)]
    if name == "fit" and (out / "lightning_logs").exists():
        folders = sorted((out / "lightning_logs").glob("version_*/checkpoints/last.ckpt"))
        if folders:
            parts = ["fit", "--resume", str(folders[-1].parents[1])]
    return parts


def start(name: str, out: Path, models: Path) -> subprocess.Popen[bytes]:
    """Start a command in a folder of its own."""
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "datasets")}
    with (out / "output.txt").open("ab") as output:
        command = [sys.executable, "-m", "lightning_kd", *arguments(name, out, models)]
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=ROOT)


def content(file: Path) -> object:
    """Return what of a file must be equal in each run."""
    if file.name == "report.json":
        return re.sub(r'"(p\d\d|throughput|speedup)": [\d.]+', "", file.read_text(encoding="utf-8"))
    if file.name == "trials.csv":
        with file.open(encoding="utf-8") as stream:
            return sorted(row["state"] for row in csv.DictReader(stream))
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    return file.read_bytes()


def files(out: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that are compared, each with a name that does not depend on the number of the run folder."""
    for file in sorted(out.rglob("*")):
        name = re.sub(r"version_\d+", "version", str(file.relative_to(out)))
        hidden = any(part.startswith(".") for part in Path(name).parts)
        skipped = hidden or name.startswith("datasets") or name == "output.txt" or NOT_COMPARED.search(name)
        if file.is_file() and not skipped and file.suffix != ".ckpt":
            yield name, file


def differences(out: Path, expected: dict[str, object], missing_allowed: bool) -> list[str]:
    """Return the names of the files that differ from those of the uninterrupted run."""
    actual = {name: content(file) for name, file in files(out)}
    names = [name for name, value in actual.items() if name in expected and value != expected[name]]
    names = [name for name in names if not (missing_allowed and name.endswith("trials.csv"))]
    return names if missing_allowed else names + [name for name in expected if name not in actual]


def interrupt(process: subprocess.Popen[bytes], number: signal.Signals, delay: float) -> bool:
    """Send a signal after a delay, and wait for the end; return False if the process ended before."""
    try:
        process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        pass
    process.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
    process.wait()
    return True


def main() -> int:
    """Interrupt the commands, print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the runs; must not exist")
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), help="default: all")
    parser.add_argument("--kills", type=int, default=20, help="signals for each command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments (default: %(default)s)")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"folder: {args.folder} exists; choose a new folder")
    folder, generator = args.folder.resolve(), random.Random(args.seed)
    models = folder / "models"
    models.mkdir(parents=True)
    for name, target in (("teacher", "teacher"), ("distill", "student")):
        folders = [f"--trainer.default_root_dir={models}/{name}.run", f"--export.output_dir={models}/{target}"]
        teacher = [f"--model.teacher={models}/teacher"] if name == "distill" else []
        command = [sys.executable, "-m", "lightning_kd", "fit", "--config", str(QUICKSTART / f"{name}.yaml")]
        subprocess.run([*command, *teacher, *folders], check=True, cwd=ROOT, capture_output=True)
    (models / "best.ckpt").symlink_to(models / "distill.run/lightning_logs/version_0/checkpoints/best.ckpt")
    table = Table("command", "uninterrupted (s)", *(s.name for s in SIGNALS), "status after SIGINT", "differ")
    num_failed = 0
    for name in args.commands:
        started = time.monotonic()
        if start(name, folder / name / "whole", models).wait():
            sys.exit(f"{name} failed, see {folder / name / 'whole' / 'output.txt'}")
        duration = time.monotonic() - started
        expected = {file_name: content(file) for file_name, file in files(folder / name / "whole")}
        counts, statuses, failed = dict.fromkeys(SIGNALS, 0), set(), []
        for number in range(args.kills):
            out, sent = folder / name / f"killed_{number}", SIGNALS[number % len(SIGNALS)]
            process = start(name, out, models)
            if interrupt(process, sent, generator.uniform(0.2, duration)):
                counts[sent] += 1
                if sent == signal.SIGINT:
                    statuses.add(process.returncode)
            problems = [f"after {sent.name}: {file}" for file in differences(out, expected, missing_allowed=True)]
            if sent == signal.SIGSTOP and process.returncode:
                problems.append(f"status {process.returncode} after SIGCONT")
            if process.returncode and start(name, out, models).wait():
                problems.append(f"second run failed, see {out / 'output.txt'}")
            problems += differences(out, expected, missing_allowed=False)
            failed += [f"{out.name}: {problem}" for problem in problems]
        print("\n".join([f"{name}: {len(expected)} files compared", *failed]), flush=True)
        num_failed += len(failed)
        sent_counts = (str(count) for count in counts.values())
        table.add_row(name, f"{duration:.1f}", *sent_counts, ", ".join(map(str, sorted(statuses))), str(len(failed)))
    Console(width=120).print(table)
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
