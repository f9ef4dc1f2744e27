"""The results of a study: the best config and a table of all trials."""

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import yaml
from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from lightning_kd.cli.tune.study import retried_numbers
from lightning_kd.io.atomic import atomic_write

ERROR_ATTR, SCORES_ATTR, DISCARDED_ATTR = "error", "scores", "discarded"
"""User attributes of a trial: why it failed, its score by seed, and that the study already had enough trials."""

NUM_BEST_TRIALS = 4
"""Number of trials in the printed table."""


def finished_trials(study: Study) -> list[FrozenTrial]:
    """Return the finished trials, without those that were retried or discarded."""
    return [trial for trial in current_trials(study) if trial.state.is_finished()]


def current_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials, waiting and running ones included, without those that were retried or discarded."""
    trials = study.get_trials(deepcopy=False)
    retried = retried_numbers(trials)
    return [trial for trial in trials if trial.number not in retried and DISCARDED_ATTR not in trial.user_attrs]


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, the best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.value or 0.0, reverse=study.direction.name == "MAXIMIZE")


def best_trial(study: Study) -> FrozenTrial | None:
    """Return the best complete trial, or None."""
    return next(iter(complete_trials(study)), None)


def error_message(trial: FrozenTrial) -> str:
    """Return why a trial failed; empty if it did not."""
    return "" if trial.state.name != "FAIL" else str(trial.user_attrs.get(ERROR_ATTR, "its process was killed"))


def scores(trial: FrozenTrial) -> dict[str, float]:
    """Return the score of a trial for each seed."""
    return dict(trial.user_attrs.get(SCORES_ATTR, {}))


def std(trial: FrozenTrial) -> float | None:
    """Return the sample standard deviation over the seeds; None for fewer than two."""
    values = list(scores(trial).values())
    return statistics.stdev(values) if len(values) > 1 else None


def duration(trial: FrozenTrial) -> float:
    """Return the duration of a trial in seconds."""
    return trial.duration.total_seconds() if trial.duration else math.nan


def format_value(value: Any) -> str:
    """Format a parameter or a score with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def param_names(study: Study) -> list[str]:
    """Return the names of all parameters in the order in which they were first suggested."""
    return list(dict.fromkeys(name for trial in finished_trials(study) for name in trial.params))


def write_trials(file: Path, study: Study) -> None:
    """Write all finished trials as CSV, one line each.

    Args:
        file: File to write or replace.
        study: The study.
    """
    trials, names = finished_trials(study), param_names(study)
    seeds = list(dict.fromkeys(seed for trial in trials for seed in scores(trial)))
    head = ["number", "state", "value", "std", *(f"seed {seed}" for seed in seeds), "duration_s", *names, "error"]
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        for trial in trials:
            row = [trial.number, trial.state.name.lower(), trial.value, std(trial)]
            row += [scores(trial).get(seed) for seed in seeds]
            row += [f"{duration(trial):.1f}", *(trial.params.get(name) for name in names), error_message(trial)]
            writer.writerow(row)


def write_config(file: Path, config: dict[str, Any], header: list[str]) -> None:
    """Write a config as YAML for ``fit``.

    Args:
        file: File to write or replace.
        config: The config as plain data.
        header: Lines of a comment at the top.
    """
    lines = "".join(f"# {line}\n" if line else "#\n" for line in header)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    with atomic_write(file) as temporary:
        temporary.write_text(lines + text, encoding="utf-8")


def best_trials_table(study: Study, metric: str) -> Table:
    """Return a table of the best trials, one column each."""
    best = complete_trials(study)[:NUM_BEST_TRIALS]
    table = Table("trial", *(str(trial.number) for trial in best), title="Best trials")
    table.add_row(metric, *(f"{trial.value:.4f}" for trial in best))
    if any(std(trial) is not None for trial in best):
        table.add_row("std over seeds", *("" if (s := std(trial)) is None else f"{s:.4f}" for trial in best))
    table.add_row("duration, s", *(f"{duration(trial):.1f}" for trial in best))
    table.add_section()
    for name in param_names(study):
        table.add_row(name, *(_class_name(trial.params[name]) if name in trial.params else "" for trial in best))
    return table


def _class_name(value: Any) -> str:
    """Format a value for a narrow column: a class path by its last part."""
    return value.rpartition(".")[2] if isinstance(value, str) else format_value(value)


def trial_dir(folder: Path, number: int) -> Path:
    """Return the folder of a trial's config, logs and student."""
    return folder / "trials" / f"{number:05}"
