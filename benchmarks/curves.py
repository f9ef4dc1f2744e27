"""Plot a logged score of several runs over their steps.

    python benchmarks/curves.py docs/perplexity.png "copied=runs/copied" "random=runs/random" --score val/perplexity

Each folder is the ``trainer.default_root_dir`` of a run, or any folder with TensorBoard event files in or below it. The
newest file with the score is read. Requires matplotlib.
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
    """Return a score by step from the newest event file in or below a folder that contains it.

    Raises:
        ValueError: If no event file contains the score.
    """
    files = sorted(folder.rglob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if score in events.Tags()["scalars"]:
            return {event.step + 1: event.value for event in events.Scalars(score)}
    raise ValueError(f"{folder}: no event file has {score!r}; give the folder of a run")


def main() -> None:
    """Read the scores, print them and save the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plot", type=Path, help="image file to write")
    parser.add_argument("runs", nargs="+", metavar="name=folder", help="label in the plot and folder of a run")
    parser.add_argument("--score", default="val/perplexity", help="logged name of the score (default: %(default)s)")
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
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.plot, dpi=150)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
