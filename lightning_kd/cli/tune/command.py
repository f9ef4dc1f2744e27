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

from lightning_kd.cli.tune import results, storage
from lightning_kd.cli.tune.configuration import Configuration
from lightning_kd.cli.tune.objective import KEEP, Objective
from lightning_kd.cli.tune.search import Search
from lightning_kd.cli.tune.space import read_space
from lightning_kd.cli.tune.trial_run import Metric
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.io.atomic import check_writable

DESCRIPTION = """\
Run fit many times, with the settings that Optuna proposes, and write the best config.

All arguments that are not listed are those of fit and hold for every trial. Several processes or machines that run the
same command work on the same study; after a kill, the same command continues it. A trial leaves its config and its
logs; checkpoints are removed, and only the best trial's student is kept (see --keep). docs/tuning.md says more.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-kd tune", description=DESCRIPTION, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--config", action="append", required=True, metavar="YAML", help="the run to vary, as for fit")
    add("--space", required=True, metavar="YAML", help="which config keys to try with which values")
    add("--trials", type=int, default=100, help="of the whole study, over all processes and restarts (100)")
    add("--folder", help="where everything goes (tune/<name of the config>)")
    add("--storage", help="sqlite:///..., postgresql://..., mysql://..., or a journal ending in .log "
        "(SQLite in the folder)")  # fmt: skip
    add("--study", help="name of the study in the storage (the folder's)")
    add("--metric", help="what to tune, such as val/f1 (the task's own)")
    add("--mode", choices=("min", "max"), help="whether less or more of it is better; to be given with --metric")
    add("--pruner", choices=storage.PRUNERS, default="median", help="which trials to stop early (median)")
    add("--seeds", type=int, default=1, help="runs of each trial with seeds that count up; their mean counts (1)")
    add("--seed", type=int, default=0, help="of the proposals, not of the trials (0)")
    add("--keep", choices=KEEP, default="best", help="whose students to keep (best)")
    add("--verbose", action="store_true", help="show the bars and messages of each run")
    return parser


def main(args: list[str]) -> None:
    """Find good settings for a run.

    Raises:
        ValueError: If an argument, the space or the config is wrong.
    """
    given, rest = _parser().parse_known_args(args[1:])
    for name in ("trials", "seeds"):
        if getattr(given, name) < 1:
            raise ValueError(f"--{name}: must be >= 1, got {getattr(given, name)}")
    storage.check_installed()
    with _less_noise(given.verbose):
        _tune(given, [*(part for config in given.config for part in ("--config", config)), *rest])


def _tune(given: argparse.Namespace, fit_args: list[str]) -> None:
    console = Console(file=sys.stdout)  # also while the output of a trial is held back
    space = read_space(Path(given.space).expanduser())
    configuration = Configuration(fit_args)
    built = configuration.check(space)
    task = built[0][0].task
    own = Metric(f"val/{task.monitor}", task.monitor_mode)
    metric = _metric(given, own.name, own.mode)
    folder = Path(given.folder or Path("tune") / Path(given.config[-1]).stem).expanduser()
    check_writable(folder / "study.db", "--folder")
    folder.mkdir(parents=True, exist_ok=True)
    plain = configuration.with_settings({})
    seeds = _seeds(plain.get("seed_everything", 42), given.seeds)
    about = {"space": space.plain(), "config": plain, "metric": [metric.name, metric.mode], "seeds": seeds}
    if _can_cache(built, plain):
        cache = folder / "teacher_cache"
        fit_args = [*fit_args, f"--model.teacher_cache={cache}"]
        console.print(f"The trials share the teacher's logits in {cache}", soft_wrap=True, highlight=False)
    del built
    if metric != own and not _picks_best(plain):
        fit_args = [*fit_args, f"--trainer.callbacks+={json.dumps(_best_checkpoint(metric))}"]
    configuration = Configuration(fit_args)
    name = given.study or folder.absolute().name
    opened = storage.open_storage(given.storage, folder)
    study = storage.open_study(name, opened, metric, about, given.pruner, given.seed, space.conditional)
    repeated = storage.repeat_interrupted(study)
    for number in storage.abandoned(study):
        shutil.rmtree(results.trial_folder(folder, number), ignore_errors=True)
    if repeated:
        console.print(f"Interrupted, to be run again: trial {', '.join(map(str, repeated))}", highlight=False)
    prune = given.pruner != "none"
    objective = Objective(
        space, configuration, metric, folder, seeds, given.trials, prune, given.keep, given.verbose
    )  # fmt: skip
    Search(study, objective, console).run()


def _metric(given: argparse.Namespace, monitor: str, mode: Any) -> Metric:
    if given.metric is None and given.mode is not None:
        raise ValueError(
            f"--mode: of which metric? {monitor} has one already, {mode}; add --metric, or leave --mode out"
        )
    if given.metric in (None, monitor):
        return Metric(monitor, given.mode or mode)
    if given.mode is None:
        raise ValueError(f"--mode: whether less or more of {given.metric!r} is better; add --mode min or --mode max")
    return Metric(given.metric, given.mode)


def _picks_best(plain: dict[str, Any]) -> bool:
    """Whether the config says by itself which checkpoint is the best."""
    callbacks = plain.get("trainer", {}).get("callbacks") or []
    return any(
        callback["class_path"].endswith("ModelCheckpoint") and callback.get("init_args", {}).get("monitor")
        for callback in (callbacks if isinstance(callbacks, list) else [callbacks])
    )


def _best_checkpoint(metric: Metric) -> dict[str, Any]:
    """What ``fit`` takes for its own best checkpoint, by another metric."""
    settings = {"filename": "best", "monitor": metric.name, "mode": metric.mode, "enable_version_counter": False}
    return {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": settings}


def _seeds(first: Any, count: int) -> list[int]:
    if isinstance(first, bool) or not isinstance(first, int):
        raise ValueError(f"seed_everything: trials are compared with the same seed; give a number, not {first!r}")
    return list(range(first, first + count))


def _can_cache(built: list[Any], plain: dict[str, Any]) -> bool:
    """Whether the teacher's logits can and should be kept, and the config does not say where."""
    if plain["model"].get("teacher_cache") is not None:
        return False
    return all(
        module.active_teacher is not None
        and not any(loss.requires for loss in module.losses.values())
        and (module.task.named_labels or module.task.predicts_positions)  # not a vocabulary's for each token
        and not as_datamodule_interface(data).is_stochastic
        for module, data in built
    )


@contextmanager
def _less_noise(verbose: bool) -> Iterator[None]:
    """Leave out what every trial would say again; a warning comes once."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    said: set[str] = set()
    show = warnings.showwarning

    def once(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            show(message, category, *where, **more)

    bars = datasets.are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            if not verbose:
                warnings.showwarning = once
                datasets.disable_progress_bars()
                for logger in loggers:
                    logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
