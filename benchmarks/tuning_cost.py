r"""Compare the cost of the hundredth trial of a study with the first, which tokenizes and runs the teacher.

    python benchmarks/tuning_cost.py --output_dir runs/tuning_cost --n_trials 100 \
        --config configs/quickstart/distill.yaml \
        --search_space configs/quickstart/tune/space.py:space --trainer.max_epochs=2

Takes the arguments of ``lightning-kd tune`` and starts with empty caches. Pruned trials are counted separately.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median


def durations(rows: list[dict[str, str]], state: str) -> list[float]:
    """Return the durations of the trials in a state, in seconds."""
    return [float(row["duration_s"]) for row in rows if row["state"] == state]


def main() -> None:
    """Run the study and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path, help="folder of the study, emptied first")
    options, rest = parser.parse_known_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    environment = {**os.environ, "HF_DATASETS_CACHE": str(options.output_dir.absolute() / "datasets")}
    command = [sys.executable, "-m", "lightning_kd", "tune", "--output_dir", str(options.output_dir), *rest]
    subprocess.run(command, env=environment, check=True)
    with (options.output_dir / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first, last = rows[0], rows[-10:]
    print(f"first trial ({first['state']}): {float(first['duration_s']):.1f} s")
    for name, part in (("trials 2 to 11", rows[1:11]), (f"trials {max(len(rows) - 9, 1)} to {len(rows)}", last)):
        for state in ("complete", "pruned"):
            if values := durations(part, state):
                ratio = median(values) / float(first["duration_s"])
                print(f"{name}, {state} ({len(values)}): median {median(values):.1f} s, {ratio:.2f} of the first")


if __name__ == "__main__":
    main()
