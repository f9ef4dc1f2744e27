"""Draw a logged score of several runs over their steps.

    python benchmarks/curves.py docs/perplexity.png "copied=runs/copied" "random=runs/random" --score val/perplexity

Each folder is a run's ``trainer.default_root_dir`` or any folder with TensorBoard's event files in or below it; the
newest run counts. Needs matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def read_scores(folder: Path, score: str) -> dict[int, float]:
    """The score by step, from the newest event file in or below a folder that has it.

    Raises:
        ValueError: If none has.
    """
    files = sorted(folder.rglob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if score in events.Tags()["scalars"]:
            return {event.step + 1: event.value for event in events.Scalars(score)}
    raise ValueError(f"{folder}: no event file has {score!r}; name a run's folder")


def main() -> None:
    """Read, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", nargs="+", metavar="name=folder")
    parser.add_argument("--score", default="val/perplexity")
    args = parser.parse_args()
    curves = {}
    for run in args.runs:
        name, _, folder = run.partition("=")
        curves[name] = read_scores(Path(folder), args.score)
    steps = sorted(set().union(*curves.values()))
    table = Table(args.score, *(f"step {step}" for step in steps))
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, scores in curves.items():
        table.add_row(name, *(f"{scores[step]:.2f}" if step in scores else "" for step in steps))
        axes.plot(scores.keys(), scores.values(), marker="o", label=name)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    axes.set(xlabel="step", ylabel=args.score.replace("val/", "validation "), yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.05)
    axes.grid(axis="y", which="both", alpha=0.2)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, dpi=150)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
