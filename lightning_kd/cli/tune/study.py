"""Open, join and continue a study."""

import copy
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError

from lightning_kd.cli.errors import find_passwords, hide_passwords
from lightning_kd.cli.tune.trial import Metric
from lightning_kd.io.atomic import pid_alive

DEFINITION_ATTR = "definition"
"""User attribute of a study: its search space, config, metric and seeds."""

PROCESS_ATTR = "process"
"""User attribute of a trial: host and id of the process that runs it."""

HEARTBEAT_INTERVAL, GRACE_PERIOD = 60, 300
"""Seconds between heartbeats, and without one until a trial on another machine is considered dead."""

RECONNECT_SECONDS = 120
"""How long a study waits for a database server that restarts."""

MAX_RETRIES = 2
"""Retries of a trial whose process dies; the trial itself may be the cause."""


class _Database(RDBStorage):
    """A database that may restart: a missed heartbeat is not an error."""

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(StorageInternalError):  # would end the thread, and print its traceback
            super().record_heartbeat(trial_id)


def _wait_for_restarts(engine: Engine) -> None:
    """Let a connection that is refused try again, ``RECONNECT_SECONDS`` from the first refusal on."""
    refused_at: list[float] = []

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
        while not refused_at or time.monotonic() - refused_at[0] < RECONNECT_SECONDS:
            with suppress(dialect.loaded_dbapi.Error):
                connection = dialect.connect(*args, **kwargs)
                refused_at.clear()
                return connection
            refused_at.append(time.monotonic())
            time.sleep(1)
        return None  # SQLAlchemy connects, and raises


@contextmanager
def storage_errors() -> Iterator[None]:
    """Describe a failure of the database.

    Raises:
        OSError: If the database fails.
    """
    try:
        yield
    except StorageInternalError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DBAPIError):
            cause = cause.__cause__ or cause.__context__
        reason = str(error if cause is None else cause.orig).splitlines()[0]
        raise OSError(f"--storage: the database failed ({reason}); the same command continues the study") from error


def open_storage(address: str | None, folder: Path) -> BaseStorage:
    """Open the storage of a study.

    Args:
        address: URL of a database; a journal file that ends in ``.log``; None = SQLite in the folder.
        folder: Folder of the study.

    Raises:
        ValueError: If it cannot be opened.
    """
    if address is not None and "://" not in address:
        if not address.endswith(".log"):
            raise ValueError(
                f"--storage: {hide_passwords(address)!r} is neither a URL such as sqlite:///study.db or "
                "postgresql://user@host/base nor a journal file that ends in .log"
            )
        file = Path(address).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(file)))
    if address is None:
        folder.mkdir(parents=True, exist_ok=True)
    url = address or f"sqlite:///{(folder / 'study.db').absolute()}"
    # a second process waits while the first one writes, instead of failing after five seconds
    is_server = not url.startswith("sqlite")
    engine = {"pool_pre_ping": True} if is_server else {"connect_args": {"timeout": 60}}
    connect = partial(
        _Database,
        url,
        engine_kwargs=engine,
        heartbeat_interval=HEARTBEAT_INTERVAL,
        grace_period=GRACE_PERIOD,
        heartbeat_stale_trial_callback=retry,
    )
    try:
        try:
            storage = connect()
        except DatabaseError:  # two processes created the tables at the same moment
            time.sleep(2)
            storage = connect()
    except Exception as error:  # each database driver has its own; ImportError without one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        address = url.replace(" ", "%20")  # of a password
        parts = {p for password in find_passwords(address) for p in (unquote(password), *re.split("[:/@]", password))}
        shown = type(error).__name__ if any(part in reason for part in parts - {""}) else reason
        raise ValueError(
            f"--storage: {hide_passwords(address)!r} cannot be opened ({shown}); check address, login and driver"
        ) from (error if shown == reason else None)
    if is_server:
        _wait_for_restarts(storage.engine)
    return storage


def open_study(
    name: str, storage: BaseStorage, metric: Metric, definition: dict[str, Any], pruner: str, seed: int
) -> Study:
    """Create a study, or join or continue the one of that name.

    Args:
        name: Name of the study in its storage.
        storage: See ``open_storage``.
        metric: The metric to optimize.
        definition: Plain data that must be equal in all processes of the study.
        pruner: Name of the pruner.
        seed: Seed of the sampler in the process that creates the study; processes that join derive other seeds.

    Raises:
        ValueError: If a study of that name has another definition.
    """
    text = json.dumps(definition, sort_keys=True)
    direction = StudyDirection.MAXIMIZE if metric.mode == "max" else StudyDirection.MINIMIZE
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        study.set_user_attr(DEFINITION_ATTR, text)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
        existing = study.user_attrs.get(DEFINITION_ATTR, text)  # missing while another process creates the study
        if existing != text:
            raise ValueError(
                f"--study_name: study {name!r} exists, {_describe_difference(json.loads(existing), definition)}; "
                "restore its search space, config and options, or choose another --output_dir or --study_name"
            ) from None
        entropy = f"{seed} {len(study.trials)} {socket.gethostname()} {os.getpid()}"
        seed = int.from_bytes(hashlib.sha256(entropy.encode()).digest()[:4], "big")
    study.sampler = TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    study.pruner = _create_pruner(pruner)
    return study


def _create_pruner(name: str) -> BasePruner:
    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=2)  # never prunes after the first validation
    return HyperbandPruner() if name == "hyperband" else NopPruner()


def _describe_difference(old: Any, new: Any, path: str = "") -> str:
    """Describe the first difference between two pieces of plain data."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if key not in old or key not in new or old[key] != new[key]:
                return _describe_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return f"in which {path} is {old!r}, here it is {new!r}"


def process_name() -> str:
    """Return host and id of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def retried_numbers(trials: list[FrozenTrial]) -> set[int]:
    """Return the numbers of trials that were queued again under another number."""
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}


def retry(study: Study, trial: FrozenTrial, max_retries: int | None = MAX_RETRIES) -> None:
    """Queue an interrupted trial again with the same parameters.

    Args:
        study: The study.
        trial: The interrupted trial.
        max_retries: Number of retries after which the trial stays failed; None = no limit.
    """
    trial = copy.deepcopy(trial)  # Optuna appends to a list in it
    trial.user_attrs = {}  # a retry must not look as if the dead process ran it
    RetryHeartbeatStaleTrialCallback(max_retry=max_retries)(study, trial)


def retry_dead_trials(study: Study) -> list[int]:
    """Queue trials again whose process on this machine was killed, and return their numbers."""
    retried = []
    for trial in filter(_is_dead, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (RuntimeError, ValueError):  # another process was faster
            continue
        retry(study, trial)
        retried.append(trial.number)
    return retried


def dead_trials(study: Study) -> list[int]:
    """Return the numbers of retried trials whose process on this machine has ended."""
    trials = study.get_trials(deepcopy=False)
    retried = retried_numbers(trials)
    return [trial.number for trial in trials if trial.number in retried and _is_dead(trial)]


def _is_dead(trial: FrozenTrial) -> bool:
    host, _, pid = trial.user_attrs.get(PROCESS_ATTR, "").rpartition(":")
    return host == socket.gethostname() and not pid_alive(pid)
