"""Compare alternatives to temperature scaling, losses on the logits, on CLINC150.

Each method trains the same student (layers 0 and 5 of the teacher) on the same examples with the same optimizer,
learning rate schedule and epochs; only the losses differ. The setting of each method is selected by the validation
accuracy of one seed; its scores come from other seeds. Finished runs are kept in a JSON Lines file, from which the
tables are printed, so that an interrupted series continues where it stopped. To use two processors, run the program
twice with different ``--methods``.

    python benchmarks/alternatives.py results/alternatives.jsonl --teacher <folder> --data <CLINC150 folder>
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from seeds import run_seed

CONFIG = Path(__file__).parent.parent / "configs" / "clinc150" / "distill_fast.yaml"
SELECTION_SEED = 0
SCORES = ("val/accuracy", "val/oos_recall", "test/accuracy", "test/in_scope_accuracy", "test/oos_recall")
Setting = dict[str, Any]
"""Losses and loss schedules, as in the ``model`` section of a config."""


def loss(class_path: str, **arguments: Any) -> dict[str, Any]:
    """Return a loss as in a config."""
    return {"class_path": class_path, "init_args": arguments}


def soft(alpha: float, **arguments: Any) -> Setting:
    """Return hard labels with weight alpha and soft targets with weight 1 - alpha."""
    hard, soft = loss("HardLabelLoss", weight=alpha), loss("SoftTargetLoss", weight=1 - alpha, **arguments)
    return {"losses": {"hard": hard, "soft": soft}}


def with_hard_labels(class_path: str, **arguments: Any) -> Setting:
    """Return hard labels with weight 1 and another loss, as in the papers."""
    return {"losses": {"hard": loss("HardLabelLoss"), class_path: loss(class_path, **arguments)}}


def decreasing_temperature(alpha: float, start: float) -> Setting:
    """Return hard labels and soft targets whose temperature decreases linearly to 1 over the run."""
    return soft(alpha) | {"loss_schedules": {"soft": {"temperature": {"start": start, "end": 1}}}}


def shifting_weights(temperature: float, first: str, last: str) -> Setting:
    """Return hard labels and soft targets whose weights shift linearly over the run.

    Args:
        temperature: Temperature of the soft targets.
        first: Name of the loss whose weight moves from 1 to 0, ``hard`` or ``soft``.
        last: Name of the loss whose weight moves from 0 to 1.
    """
    return {
        "losses": {"hard": loss("HardLabelLoss"), "soft": loss("SoftTargetLoss", temperature=temperature)},
        "loss_schedules": {first: {"weight": {"start": 1, "end": 0}}, last: {"weight": {"start": 0, "end": 1}}},
    }


METHODS: dict[str, dict[str, Setting]] = {
    "hard labels": {"": {"losses": {"hard": loss("HardLabelLoss")}}},
    "KL, T 1": {f"alpha {a}": soft(a) for a in (0.055, 0.5)},
    "KL, T 4": {f"alpha {a}": soft(a, temperature=4) for a in (0.055, 0.5)},
    "standardized logits": {  # Sun et al. 2024: T 2, weights 1 + 9
        "T 2, alpha 0.055": soft(0.055, standardize=True, temperature=2),
        "T 2, 1 + 9": with_hard_labels("SoftTargetLoss", weight=9, standardize=True, temperature=2),
        "T 1, alpha 0.5": soft(0.5, standardize=True, temperature=1),
    },
    "decoupled": {  # Zhao et al. 2022: CIFAR-100, ImageNet, and a weight in between
        "T 4, 1 + 8": with_hard_labels("DecoupledKDLoss", temperature=4, nontarget_weight=8),
        "T 1, 1 + 0.5": with_hard_labels("DecoupledKDLoss", temperature=1, nontarget_weight=0.5),
        "T 4, 1 + 1": with_hard_labels("DecoupledKDLoss", temperature=4, nontarget_weight=1),
    },
    "DIST": {  # Huang et al. 2022: ImageNet, CIFAR-100, and the latter without the intra-class term
        "T 1, 2 + 2": with_hard_labels("DISTLoss", temperature=1, inter_weight=2, intra_weight=2),
        "T 4, 2 + 2": with_hard_labels("DISTLoss", temperature=4, inter_weight=2, intra_weight=2),
        "T 4, 2 + 0": with_hard_labels("DISTLoss", temperature=4, inter_weight=2, intra_weight=0),
    },
    "top k, rest merged": {
        f"k {k}, T 4, alpha {alpha}": soft(alpha, temperature=4, top_k=k)
        for k, alpha in ((3, 0.5), (10, 0.5), (10, 0.055))
    },
    "annealed temperature": {
        "8 to 1, alpha 0.055": decreasing_temperature(0.055, 8),
        "4 to 1, alpha 0.055": decreasing_temperature(0.055, 4),
        "8 to 1, alpha 0.5": decreasing_temperature(0.5, 8),
    },
    "annealed weights": {  # Clark et al. 2019: from the teacher to the labels; and the reverse
        "to the labels, T 1": shifting_weights(1, "soft", "hard"),
        "to the labels, T 4": shifting_weights(4, "soft", "hard"),
        "to the teacher, T 4": shifting_weights(4, "hard", "soft"),
    },
}


def run(setting: Setting, seed: int, args: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    """Train and test a student in a temporary folder; only the teacher's logits stay on disk.

    Args:
        setting: Losses and their schedules.
        seed: Seed of the run.
        args: Arguments of this program.
        overrides: Further arguments of ``lightning-kd fit``.

    Returns:
        The scores, see ``seeds.run_seed``.
    """
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    # not on the command line, where a loss of the same name and class keeps arguments of the config
    config["model"] |= setting
    config["model"]["student"]["config"] = args.teacher
    if any(term["class_path"] != "HardLabelLoss" for term in setting["losses"].values()):
        config["model"]["teacher"] = args.teacher
        config["model"]["teacher_cache"] = str(args.results.parent.resolve() / "alternatives_teacher_cache")
    else:
        del config["model"]["teacher"], config["model"]["teacher_cache"]
    config["trainer"]["callbacks"] = [{"class_path": "LayerInitialization", "init_args": {"source": args.teacher}}]
    config["trainer"] |= {"max_epochs": args.epochs, "enable_progress_bar": False}
    config["data"]["init_args"]["path"] = args.data
    with tempfile.TemporaryDirectory(prefix="alternatives-") as folder:
        config["trainer"]["default_root_dir"] = folder
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return run_seed(seed, [f"--config={file}", *overrides])


class Results:
    """The finished runs, kept in a JSON Lines file.

    Args:
        file: The file; it need not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The runs in the file, read each time because other processes may append to it."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def select(self, method: str, setting: str, seeds: list[int]) -> list[dict[str, Any]]:
        """Return the finished runs of a setting with the given seeds."""
        return [r for r in self.rows if (r["method"], r["setting"]) == (method, setting) and r["seed"] in seeds]

    def best_setting(self, method: str) -> str | None:
        """Return the setting with the best validation accuracy; None until all have been tried."""
        tried = {setting: self.select(method, setting, [SELECTION_SEED]) for setting in METHODS[method]}
        if len(tried) == 1:
            return next(iter(tried))
        if not all(tried.values()):
            return None
        return max(tried, key=lambda setting: float(tried[setting][0]["val/accuracy"]))

    def run_missing(self, method: str, setting: str, seed: int, args: argparse.Namespace, overrides: list[str]) -> None:
        """Run a setting with a seed unless it is in the file, and append the scores."""
        if self.select(method, setting, [seed]):
            return
        started = time.time()
        scores = run(METHODS[method][setting], seed, args, overrides)
        result = {"method": method, "setting": setting, "minutes": (time.time() - started) / 60, **scores}
        with self.file.open("a") as stream:
            stream.write(json.dumps(result) + "\n")
        gc.collect()


def show(results: Results, seeds: list[int], console: Console) -> None:
    """Print the methods with their best settings, then the validation of all settings."""
    table = Table("method", "setting", "seeds", *SCORES, box=MARKDOWN)
    selection = Table("method", "setting", *SCORES, "minutes", box=MARKDOWN)
    for method, settings in METHODS.items():
        best = results.best_setting(method)
        if best is not None and (rows := results.select(method, best, seeds)):
            cells = []
            for score in SCORES:
                values = [100 * row[score] for row in rows]
                std = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.2f}{std}")
            table.add_row(method, best, str(len(rows)), *cells)
        for setting in settings:
            for row in results.select(method, setting, [SELECTION_SEED]):
                scores = (f"{100 * row[score]:.2f}" for score in SCORES)
                selection.add_row(method, setting, *scores, f"{row['minutes']:.1f}")
    console.print("Best setting of each method, mean ± standard deviation", table)
    console.print(f"All settings, seed {SELECTION_SEED}", selection)


def main() -> None:
    """Run the missing runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON Lines file to append to")
    parser.add_argument("--teacher", required=True, help="folder of the fine-tuned teacher")
    parser.add_argument("--data", required=True, help="CLINC150 folder or file")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="seeds of the scores (default: 1 2 3)")
    parser.add_argument(
        "--methods", nargs="*", choices=list(METHODS), default=list(METHODS), help="methods to run (default: all)"
    )
    args, overrides = parser.parse_known_args()
    if SELECTION_SEED in args.seeds:
        parser.error(f"--seeds: seed {SELECTION_SEED} selects the settings, so its scores are biased; use other seeds")
    results = Results(args.results)
    for method in args.methods:
        for setting in METHODS[method]:
            if len(METHODS[method]) > 1:
                results.run_missing(method, setting, SELECTION_SEED, args, overrides)
    for seed in args.seeds:
        for method in args.methods:
            setting = results.best_setting(method)
            assert setting is not None
            results.run_missing(method, setting, seed, args, overrides)
    show(results, args.seeds, Console(width=160))


if __name__ == "__main__":
    main()
