"""Where a study is kept: opened, joined, and continued after a kill."""

import hashlib
import json
import os
import socket
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_kd.cli.tune.trial_run import Metric
from lightning_kd.io.atomic import pid_alive

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

Pruning = Literal["median", "hyperband", "none"]
PRUNERS: tuple[Pruning, ...] = ("median", "hyperband", "none")

ABOUT = "about"
"""Attribute of a study: the space and the config it is of."""

PROCESS = "process"
"""Attribute of a trial: host and process id that run it."""

REPEATS = "repeats"
"""Attribute of a trial: the number of the one it stands for, which was interrupted."""

HEARTBEAT, GRACE = 60, 300
"""Seconds between two signs of life, and without one until a trial is given up, of processes on other machines."""

MOST_REPEATS = 2
"""A trial whose process dies each time is not tried for ever: it may be what kills it."""


def check_installed() -> None:
    """Refuse to go on without Optuna and matplotlib.

    Raises:
        ValueError: Says how to get them.
    """
    missing = [name for name in ("optuna", "matplotlib", "sklearn") if find_spec(name) is None]
    if missing:
        raise ValueError(f"tune needs {' and '.join(missing)}, not installed; run pip install 'lightning-kd[tune]'")


def open_storage(given: str | None, folder: Path) -> "BaseStorage":
    """The storage of a study.

    Args:
        given: A URL of a database; a file ending in ``.log``, Optuna's journal; or None for SQLite in the folder.
        folder: Of the study.

    Raises:
        ValueError: If it cannot be opened.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import DatabaseError

    if given is not None and "://" not in given:
        if not given.endswith(".log"):
            raise ValueError(
                f"--storage: {given!r} is neither a URL such as sqlite:///study.db or postgresql://user@host/base nor "
                "a journal, a file whose name ends in .log"
            )
        Path(given).expanduser().parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(Path(given).expanduser())))
    url = given or f"sqlite:///{(folder / 'study.db').absolute()}"
    # a second process waits for a first one that is writing, instead of failing after five seconds
    engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    open_it = partial(
        RDBStorage,
        url,
        engine_kwargs=engine,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=repeat,
    )
    try:
        try:
            return open_it()
        except DatabaseError:  # two processes that make the same tables at the same moment disturb each other
            time.sleep(2)
            return open_it()
    except Exception as error:  # of the driver, each has its own, or an ImportError where there is none
        place = f"{url.partition('://')[0]}://{url.rpartition('@')[2].partition('://')[2] or url.rpartition('@')[2]}"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"--storage: {place!r} cannot be opened ({reason}); check address, login and driver"
        ) from error


def open_study(
    name: str, storage: "BaseStorage", metric: Metric, about: dict[str, Any], pruner: Pruning, seed: int, groups: bool
) -> "Study":
    """Create a study, or join or continue the one of that name.

    Args:
        name: Of the study in its storage.
        storage: See ``open_storage``.
        metric: What is tuned.
        about: What must be the same for all who join, as plain data.
        pruner: Which trials to stop early.
        seed: Of the proposals of the process that creates the study; those that join draw others.
        groups: Whether some parameters count only sometimes.

    Raises:
        ValueError: If there is a study of that name about something else.
    """
    import optuna
    from optuna.samplers import TPESampler
    from optuna.study import StudyDirection

    direction = StudyDirection.MAXIMIZE if metric.mode == "max" else StudyDirection.MINIMIZE
    kept = json.dumps(about, sort_keys=True)
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        study.set_user_attr(ABOUT, kept)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        there = study.user_attrs.get(ABOUT, kept)  # absent for a moment, where another process is creating it
        if there != kept:
            raise ValueError(
                f"--folder: there is a study {name!r} already, {_difference(json.loads(there), about)}; give it back "
                "its space, config and options, or start another with another --folder or --study"
            ) from None
        start = f"{seed} {len(study.trials)} {socket.gethostname()} {os.getpid()}"
        seed = int.from_bytes(hashlib.sha256(start.encode()).digest()[:4], "big")
    study.sampler = TPESampler(seed=seed, multivariate=True, group=groups, constant_liar=True)
    study.pruner = _pruner(pruner)
    return study


def _pruner(name: Pruning) -> "BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=2)  # the first validation never decides
    return HyperbandPruner() if name == "hyperband" else NopPruner()


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first place where two pieces of plain data differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if key not in old or key not in new or old[key] != new[key]:
                inner = f"{path}.{key}" if path else str(key)
                return _difference(old.get(key), new.get(key), inner)
    return f"in which {path} is {old!r}, here it is {new!r}"


def identity() -> str:
    """Host and id of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def withdrawn(trials: "list[FrozenTrial]") -> set[int]:
    """The numbers of trials that were interrupted and are repeated under another number."""
    return {trial.user_attrs[REPEATS] for trial in trials if REPEATS in trial.user_attrs}


def repeat(study: "Study", trial: "FrozenTrial") -> None:
    """Queue a trial whose process died again, with the parameters it had, unless that happened too often."""
    before = {each.number: each.user_attrs.get(REPEATS) for each in study.get_trials(deepcopy=False)}
    times, number = 0, before.get(trial.number)
    while number is not None:
        times, number = times + 1, before.get(number)
    if times < MOST_REPEATS:
        queue_again(study, trial)


def queue_again(study: "Study", trial: "FrozenTrial") -> None:
    """Queue a trial again, with the parameters it had."""
    study.enqueue_trial(trial.params, user_attrs={REPEATS: trial.number})


def repeat_interrupted(study: "Study") -> list[int]:
    """Queue again what processes of this machine were running when they were killed.

    Returns:
        The numbers of these trials.
    """
    from optuna.trial import TrialState

    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _died_here(trial):
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (RuntimeError, ValueError):  # another process that joins was faster
            continue
        repeat(study, trial)
        found.append(trial.number)
    return found


def abandoned(study: "Study") -> list[int]:
    """The numbers of trials that are repeated under another one, and whose process of this machine has died."""
    trials = study.get_trials(deepcopy=False)
    gone = withdrawn(trials)
    return [trial.number for trial in trials if trial.number in gone and _died_here(trial)]


def _died_here(trial: "FrozenTrial") -> bool:
    host, _, process = trial.user_attrs.get(PROCESS, "").rpartition(":")
    return host == socket.gethostname() and not pid_alive(process)
