"""What a study leaves: the best config, all trials as a table, and pictures."""

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from lightning_kd.cli.tune import storage
from lightning_kd.io.atomic import atomic_write

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

REASON, SCORES, SURPLUS = "reason", "scores", "surplus"
"""Attributes of a trial: why it failed, its value for each seed, and that another process was faster with the last."""

SHOWN = 4
"""Trials in the table on the screen."""


def counted(study: "Study") -> "list[FrozenTrial]":
    """The trials that count: ended by themselves, not interrupted and repeated under another number."""
    return [trial for trial in wanted(study) if trial.state.is_finished()]


def wanted(study: "Study") -> "list[FrozenTrial]":
    """The trials that count or will do so, also those that wait or run."""
    trials = study.get_trials(deepcopy=False)
    repeated = storage.withdrawn(trials)
    return [trial for trial in trials if trial.number not in repeated and SURPLUS not in trial.user_attrs]


def best_trial(study: "Study") -> "FrozenTrial | None":
    """The best trial that is complete; None if there is none."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None


def reason(trial: "FrozenTrial") -> str:
    """Why a trial failed; empty where it did not."""
    if trial.state.name != "FAIL":
        return ""
    return str(trial.user_attrs.get(REASON, "its process was killed"))


def scores(trial: "FrozenTrial") -> dict[str, float]:
    """The value for each seed."""
    return dict(trial.user_attrs.get(SCORES, {}))


def spread(values: list[float]) -> float | None:
    """Standard deviation of a sample; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def duration(trial: "FrozenTrial") -> float:
    """Seconds that a trial took."""
    return trial.duration.total_seconds() if trial.duration else math.nan


def readable(value: Any) -> str:
    """A parameter or a score, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_trials(file: Path, study: "Study", names: list[str]) -> None:
    """All trials as CSV, one line each.

    Args:
        file: To write or replace.
        study: Whose trials.
        names: Of the parameters, in the order of the columns.
    """
    trials = counted(study)
    seeds = list(dict.fromkeys(seed for trial in trials for seed in scores(trial)))
    head = ["number", "state", "value", "spread", *(f"seed {seed}" for seed in seeds), "seconds", *names, "reason"]
    with atomic_write(file) as fresh, fresh.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        for trial in trials:
            own = scores(trial)
            row = [trial.number, trial.state.name.lower(), trial.value, spread(list(own.values()))]
            row += [own.get(seed) for seed in seeds]
            row += [f"{duration(trial):.1f}", *(trial.params.get(name) for name in names), reason(trial)]
            writer.writerow(row)


def write_config(file: Path, config: dict[str, Any], header: list[str]) -> None:
    """A config as YAML that ``fit`` takes, with comments before it."""
    lines = "".join(f"# {line}\n" if line else "#\n" for line in header)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    with atomic_write(file) as fresh:
        fresh.write_text(lines + text, encoding="utf-8")


def table(study: "Study", names: list[str], metric: str) -> Table:
    """The best trials side by side, parameters downwards."""
    complete = [trial for trial in counted(study) if trial.state.name == "COMPLETE"]
    complete.sort(key=lambda trial: trial.value or 0.0, reverse=study.direction.name == "MAXIMIZE")
    best = complete[:SHOWN]
    result = Table("trial", *(str(trial.number) for trial in best), title="Best trials")
    result.add_row(metric, *(f"{trial.value:.4f}" for trial in best))
    spreads = [spread(list(scores(trial).values())) for trial in best]
    if any(each is not None for each in spreads):
        result.add_row("spread over seeds", *("" if each is None else f"{each:.4f}" for each in spreads))
    result.add_row("seconds", *(f"{duration(trial):.1f}" for trial in best))
    result.add_section()
    for name in names:
        result.add_row(name, *(_own(trial.params[name]) if name in trial.params else "" for trial in best))
    return result


def _own(value: Any) -> str:
    """A value for a narrow column: a class by its own name."""
    return readable(value).rpartition(".")[2] if isinstance(value, str) else readable(value)


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial of a study has its config, logs and student."""
    return folder / "trials" / f"{number:05}"
