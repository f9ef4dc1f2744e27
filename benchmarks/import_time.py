"""Compare ``import lightning_kd.cli.fit`` and ``lightning-kd --help`` with the imports that every fit needs.

The baseline imports the bare packages, without the classes of transformers that load on first use and without a parser.
Each measurement is a new process; the first round warms the file cache and is dropped; ratios are within a round.
CPU time is more stable than wall time on a busy machine.

    python benchmarks/import_time.py [--rounds 15]

Exit status 1 if a median ratio is above the limit.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

BASELINE = "import torch, lightning.pytorch.cli, transformers, datasets, torchmetrics, jsonargparse"
COMMANDS = {
    BASELINE: ["-c", BASELINE],
    "import lightning_kd.cli.fit": ["-c", "import lightning_kd.cli.fit"],
    "lightning-kd --help": ["-m", "lightning_kd", "--help"],
}


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run Python once and return the wall time and the CPU time, in seconds."""
    started = time.perf_counter()
    discard = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *arguments], **discard)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"python {' '.join(arguments)} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def main() -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (default: %(default)s)")
    parser.add_argument(
        "--limit", type=float, default=1.1, help="highest accepted ratio of CPU times (default: %(default)s)"
    )
    args = parser.parse_args()
    rounds = [{name: measure(command) for name, command in COMMANDS.items()} for _ in range(args.rounds + 1)][1:]
    table = Table("", "wall time (s)", "ratio", "CPU time (s)", "ratio", title=f"medians of {args.rounds} rounds")
    highest = 0.0
    for name in COMMANDS:
        cells = [name]
        for kind in (0, 1):
            ratio = statistics.median(times[name][kind] / times[BASELINE][kind] for times in rounds)
            cells += [f"{statistics.median(times[name][kind] for times in rounds):.2f}", f"{ratio:.3f}"]
        highest = max(highest, ratio)
        table.add_row(*cells)
    Console(width=120).print(table)
    return int(highest > args.limit)


if __name__ == "__main__":
    sys.exit(main())
