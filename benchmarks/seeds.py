"""Run a config with several seeds and print mean and standard deviation of its scores.

Each seed runs ``lightning-kd fit`` and, if the test split has labels, ``lightning-kd test`` on the best checkpoint. The
scores of finished seeds are kept in a JSON Lines file, so that an interrupted series continues where it stopped.

    python benchmarks/seeds.py results/distill.jsonl --seeds 1 2 3 --config configs/clinc150/distill.yaml [override ...]
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_kd.cli.fit import run
from lightning_kd.training.module import STATE_KEY


def run_seed(seed: int, arguments: list[str]) -> dict[str, float]:
    """Fit and test with a seed.

    Args:
        seed: The seed.
        arguments: Arguments of ``lightning-kd fit``.

    Returns:
        ``seed``, ``epochs``, ``val/<metric>`` of the best epoch, ``val/teacher_<metric>`` and ``test/<metric>``.
    """
    fit = run(["fit", *arguments, f"--seed_everything={seed}"])
    assert fit.run_dir is not None
    best = fit.run_dir / "checkpoints" / "best.ckpt"
    state = torch.load(best, map_location="cpu", weights_only=True, mmap=True)[STATE_KEY]
    scores = {**state["scores"], **{f"val/teacher_{name}": score for name, score in state["teacher_scores"].items()}}
    try:
        test = run(["test", "--config", str(fit.run_dir / "config.yaml"), f"--ckpt_path={best}"])
        scores |= {name: float(score) for name, score in test.trainer.callback_metrics.items()}
    except ValueError as error:
        if not any(reason in str(error) for reason in ("has no labels", "has no test split")):
            raise
    return {"seed": seed, "epochs": fit.trainer.current_epoch, **scores}


def main() -> None:
    """Run the missing seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON Lines file to append to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds to run (default: 1 2 3)")
    args, overrides = parser.parse_known_args()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    for seed in args.seeds:
        if seed not in {row["seed"] for row in done}:
            done.append(run_seed(seed, overrides))
            with args.results.open("a") as stream:
                stream.write(json.dumps(done[-1]) + "\n")
    rows = [row for row in done if row["seed"] in args.seeds]
    table = Table("", "mean", "std", *(f"seed {row['seed']}" for row in rows), title=str(args.results))
    for name in [name for name in rows[0] if name not in ("seed", "epochs")]:
        scale = 1 if name.endswith("perplexity") else 100
        values = [scale * row[name] for row in rows]
        std = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        table.add_row(name, f"{statistics.mean(values):.2f}", std, *(f"{value:.2f}" for value in values))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
