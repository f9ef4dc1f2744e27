"""``lightning-kd tune``."""

import argparse
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from rich.console import Console

from lightning_kd.cli.tune.configuration import Configuration
from lightning_kd.cli.tune.loop import TuningLoop
from lightning_kd.cli.tune.objective import KEEP_MODELS, Objective
from lightning_kd.cli.tune.results import trial_dir
from lightning_kd.cli.tune.space import read_space
from lightning_kd.cli.tune.study import (
    PRUNERS,
    dead_trials,
    open_storage,
    open_study,
    retry_dead_trials,
)
from lightning_kd.cli.tune.trial import Metric
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.export.requirements import require_packages
from lightning_kd.io.atomic import check_writable

DESCRIPTION = """\
Search hyperparameters with Optuna: run fit many times and write the best config.

  lightning-kd tune --config run.yaml --search_space space.yaml --n_trials 50

All other arguments are passed to fit and apply to every trial. Several processes or machines that run the same command
share the study; after an interruption, the same command continues it. A trial keeps its config and logs; checkpoints
are removed, and only the student of the best trial is kept (see --keep_models). See docs/tuning.md.
"""


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-kd tune", description=DESCRIPTION, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--config", action="append", required=True, metavar="YAML", help="config to tune, as for fit")
    add("--search_space", required=True, metavar="FILE", help="YAML file of config keys and the values to try, or "
        "my_space.py:function, which takes an optuna.Trial and returns config overrides")  # fmt: skip
    add("--n_trials", type=int, default=100, help="total number of trials in the study (default: 100)")
    add("--output_dir", help="folder of the study (default: tune/<name of the config>)")
    add("--storage", help="sqlite:///..., postgresql://..., mysql://..., or a journal file that ends in .log "
        "(default: SQLite in the output folder)")  # fmt: skip
    add("--study_name", help="name of the study in the storage (default: name of the output folder)")
    add("--metric", help="metric to optimize, such as val/f1 (default: the task's metric)")
    add("--mode", choices=("min", "max"), help="whether lower or higher values of --metric are better")
    add(
        "--pruner",
        choices=PRUNERS,
        default="median",
        help="Optuna pruner that stops unpromising trials early (default: median)",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        help="number of runs per trial, with consecutive seeds; their scores are averaged (default: 1)",
    )
    add("--seed", type=int, default=0, help="seed of Optuna's sampler (default: 0)")
    add("--keep_models", choices=KEEP_MODELS, default="best", help="which trials keep their student (default: best)")
    add("--verbose", action="store_true", help="show the progress bar and messages of each run")
    return parser


def main(args: list[str]) -> None:
    """Search the hyperparameters of a run.

    Args:
        args: The command line, starting with the command's name.

    Raises:
        ValueError: If an argument, the search space or the config is invalid.
    """
    options, fit_args = _create_parser().parse_known_args(args[1:])
    for name in ("n_trials", "seeds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: must be >= 1, got {getattr(options, name)}")
    require_packages("tune", "tune", "optuna", "matplotlib", "sklearn")
    with _reduced_output(options.verbose):
        _tune(options, [*(part for config in options.config for part in ("--config", config)), *fit_args])


def _tune(options: argparse.Namespace, fit_args: list[str]) -> None:
    console = Console(file=sys.stdout)  # also while the output of a trial is captured
    space = read_space(options.search_space)
    configuration = Configuration(fit_args)
    built = configuration.check(space)
    task = built[0][0].task
    default_metric = Metric(f"val/{task.monitor}", task.monitor_mode)
    metric = _choose_metric(options, default_metric)
    folder = Path(options.output_dir or Path("tune") / Path(options.config[-1]).stem).expanduser()
    check_writable(folder / "study.db", "--output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration.with_overrides({})
    seeds = _consecutive_seeds(config.get("seed_everything", 42), options.seeds)
    definition = {
        "search_space": space.definition, "config": config, "metric": [metric.name, metric.mode], "seeds": seeds,
    }  # fmt: skip
    if _can_cache(built, config):
        cache = folder / "teacher_cache"
        fit_args = [*fit_args, f"--model.teacher_cache={cache}"]
        console.print(f"The trials share the teacher's logits in {cache}", soft_wrap=True, highlight=False)
    del built
    if metric != default_metric and not _monitors_checkpoint(config):
        fit_args = [*fit_args, f"--trainer.callbacks+={json.dumps(_checkpoint_config(metric))}"]
    configuration = Configuration(fit_args)
    name = options.study_name or folder.absolute().name
    storage = open_storage(options.storage, folder)
    study = open_study(name, storage, metric, definition, options.pruner, options.seed)
    retried = retry_dead_trials(study)
    for number in dead_trials(study):
        shutil.rmtree(trial_dir(folder, number), ignore_errors=True)
    if retried:
        console.print(f"Interrupted, to be run again: trial {', '.join(map(str, retried))}", highlight=False)
    prune = options.pruner != "none"
    objective = Objective(
        space, configuration, metric, folder, seeds, options.n_trials, prune, options.keep_models, options.verbose
    )
    TuningLoop(study, objective, console).run()


def _choose_metric(options: argparse.Namespace, default: Metric) -> Metric:
    if options.metric is None and options.mode is not None:
        raise ValueError(f"--mode: applies to --metric, and {default.name} is always {default.mode}; add --metric")
    if options.metric in (None, default.name):
        return Metric(default.name, options.mode or default.mode)
    if options.mode is None:
        raise ValueError(f"--mode: give the direction of {options.metric!r}; add --mode min or --mode max")
    return Metric(options.metric, options.mode)


def _monitors_checkpoint(config: dict[str, Any]) -> bool:
    """Return True if the config has a ``ModelCheckpoint`` with a ``monitor``."""
    callbacks = config.get("trainer", {}).get("callbacks") or []
    return any(
        callback["class_path"].endswith("ModelCheckpoint") and callback.get("init_args", {}).get("monitor")
        for callback in (callbacks if isinstance(callbacks, list) else [callbacks])
    )


def _checkpoint_config(metric: Metric) -> dict[str, Any]:
    """Return the config of the best checkpoint of ``fit``, by another metric."""
    settings = {"filename": "best", "monitor": metric.name, "mode": metric.mode, "enable_version_counter": False}
    return {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": settings}


def _consecutive_seeds(first: Any, count: int) -> list[int]:
    if isinstance(first, bool) or not isinstance(first, int):
        raise ValueError(f"seed_everything: all trials share the same seeds; give a number, got {first!r}")
    return list(range(first, first + count))


def _can_cache(built: list[Any], config: dict[str, Any]) -> bool:
    """Return True if the teacher's logits can be cached and the config does not set ``teacher_cache``."""
    if config["model"].get("teacher_cache") is not None:
        return False
    return all(
        module.active_teacher is not None
        and not any(loss.requires for loss in module.losses.values())
        and (module.task.named_labels or module.task.predicts_positions)  # the logits of a vocabulary take much space
        and not as_datamodule_interface(data).is_stochastic
        for module, data in built
    )


@contextmanager
def _reduced_output(verbose: bool) -> Iterator[None]:
    """Hide messages that every trial repeats; show each warning once."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    shown: set[str] = set()
    showwarning = warnings.showwarning

    def show_once(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            showwarning(message, category, *args, **kwargs)

    bars_disabled = datasets.are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            if not verbose:
                warnings.showwarning = show_once
                datasets.disable_progress_bars()
                for logger in loggers:
                    logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars_disabled:
            datasets.enable_progress_bars()
