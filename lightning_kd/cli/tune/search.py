"""Prepare a study, and run it."""

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
import optuna
from rich.console import Console

from lightning_kd.cli.tune.configuration import Configuration
from lightning_kd.cli.tune.loop import TuningLoop
from lightning_kd.cli.tune.objective import Objective
from lightning_kd.cli.tune.results import trial_dir
from lightning_kd.cli.tune.space import read_space
from lightning_kd.cli.tune.study import dead_trials, open_storage, open_study, retry_dead_trials, storage_errors
from lightning_kd.cli.tune.trial import Metric
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.io.atomic import check_writable


@storage_errors()
def search(options: argparse.Namespace, fit_args: list[str]) -> None:
    """Search the hyperparameters of a run.

    Args:
        options: Arguments of ``tune``.
        fit_args: Arguments of ``fit`` that apply to every trial.

    Raises:
        ValueError: If an argument, the search space or the config is invalid.
        OSError: If the disk is full, or the database fails.
    """
    console = Console(file=sys.stdout)  # also while the output of a trial is captured
    space = read_space(options.search_space)
    configuration = Configuration(fit_args)
    built = space.check(configuration.build)
    task = built[0][0].task
    default_metric = Metric(f"val/{task.monitor}", task.monitor_mode)
    metric = _choose_metric(options, default_metric)
    folder = Path(options.output_dir or Path("tune") / Path(options.config[-1]).stem).expanduser()
    check_writable(folder / "study.db", "--output_dir")
    config = configuration.with_overrides({})
    seed = config.get("seed_everything", 42)
    if isinstance(seed, bool):
        raise ValueError(f"seed_everything: all trials share the same seeds; give a number, got {seed}")
    seeds = list(range(seed, seed + options.seeds))
    definition = {
        "search_space": space.definition, "config": config, "metric": [metric.name, metric.mode], "seeds": seeds,
    }  # fmt: skip
    if _can_cache(built, config):
        cache = folder / "teacher_cache"
        fit_args = [*fit_args, f"--model.teacher_cache={cache}"]
        console.print(f"The trials share the teacher's logits in {cache}", soft_wrap=True, highlight=False)
    del built
    if metric != default_metric and not _monitors_checkpoint(config):
        settings = {"filename": "best", "monitor": metric.name, "mode": metric.mode, "enable_version_counter": False}
        best = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": settings}
        fit_args = [*fit_args, f"--trainer.callbacks+={json.dumps(best)}"]
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
def reduced_output(verbose: bool) -> Iterator[None]:
    """Hide messages that every trial repeats; show each warning once."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    disabled, were_disabled = logging.root.manager.disable, datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        if verbose:
            yield
            return
        warnings.simplefilter("once", append=True)
        datasets.disable_progress_bars()
        logging.disable(max(disabled, logging.INFO))
        try:
            yield
        finally:
            logging.disable(disabled)
            if not were_disabled:
                datasets.enable_progress_bars()
