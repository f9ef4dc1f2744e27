r"""What the hundredth trial of a study costs compared with the first, which tokenises and asks the teacher.

    python benchmarks/tuning_cost.py --folder runs/tuning_cost --trials 100 \
        --config configs/quickstart/distill.yaml --space configs/quickstart/tune/space.yaml --trainer.max_epochs=2

Takes the arguments of ``lightning-kd tune`` and starts with empty caches. Stopped trials are counted apart.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median


def seconds(rows: list[dict[str, str]], state: str) -> list[float]:
    """What the trials in a state took."""
    return [float(row["seconds"]) for row in rows if row["state"] == state]


def main() -> None:
    """Run the study and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="emptied first")
    given, rest = parser.parse_known_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    environment = {**os.environ, "HF_DATASETS_CACHE": str(given.folder.absolute() / "datasets")}
    command = [sys.executable, "-m", "lightning_kd", "tune", "--folder", str(given.folder), *rest]
    subprocess.run(command, env=environment, check=True)
    with (given.folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first, last = rows[0], rows[-10:]
    print(f"first trial ({first['state']}): {float(first['seconds']):.1f} s")
    for name, part in (("trials 2 to 11", rows[1:11]), (f"trials {len(rows) - 9} to {len(rows)}", last)):
        for state in ("complete", "pruned"):
            if own := seconds(part, state):
                ratio = median(own) / float(first["seconds"])
                print(f"{name}, {state} ({len(own)}): median {median(own):.1f} s, {ratio:.2f} of the first")


if __name__ == "__main__":
    main()
