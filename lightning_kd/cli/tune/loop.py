"""The loop over trials in one process."""

import shlex
import shutil
import sys
from contextlib import suppress
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FixedTrial, FrozenTrial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_kd.cli.errors import INTERRUPT_EXIT_CODE
from lightning_kd.cli.tune import results
from lightning_kd.cli.tune.objective import Objective, TrialFailedError
from lightning_kd.cli.tune.plots import write_plots
from lightning_kd.cli.tune.study import retry
from lightning_kd.cli.tune.trial import StudyError

MAX_FAILURES_AT_START, MAX_FAILURES = 3, 10
"""Failures in a row after which the study stops, before and after the first success."""


class TuningLoop:
    """Run trials one after the other until the study has enough.

    ``optuna.study.MaxTrialsCallback`` counts too late: two processes run 4 trials instead of 3.

    Args:
        study: The study, which other processes may share.
        objective: Runs a trial.
        console: Where to print.
    """

    def __init__(self, study: Study, objective: Objective, console: Console) -> None:
        self.study = study
        self.objective = objective
        self.console = console
        self.folder = objective.folder
        self.metric = objective.metric.name

    def run(self) -> None:
        """Run the trials and write the results.

        Raises:
            StudyError: If no trial completes, or too many fail in a row.
            OSError: If the disk is full.
            StorageInternalError: If the database fails.
            SystemExit: After Ctrl-C, with status 130.
        """
        try:
            self._run_trials()
        except KeyboardInterrupt:
            self._retry_current_trial()
            self.write_results()
            self._print("Interrupted; the same command continues the study.")
            sys.exit(INTERRUPT_EXIT_CODE)
        except (OSError, StorageInternalError):  # the disk is full; any other OSError only fails its trial
            with suppress(StorageInternalError):
                self._retry_current_trial()
            raise
        except StudyError:
            self._delete_if_all_failed()
            raise
        self.write_results()
        self._check_any_complete()

    def _run_trials(self) -> None:
        failures, total = 0, self.objective.n_trials
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        hidden = self.objective.verbose or not self.console.is_terminal
        with Progress(*columns, *times, console=self.console, disable=hidden) as progress:
            task = progress.add_task("trials", total=total, completed=len(results.finished_trials(self.study)))
            while self._has_remaining_trials():
                self._run_one()
                trials = results.finished_trials(self.study)
                progress.update(task, completed=len(trials))
                trial = next((trial for trial in trials if trial.number == self.objective.current_number), None)
                self.objective.current_number = None
                if trial is None:  # discarded, or retried by another process
                    continue
                self._print_trial(trial)
                self._remove_worse_students()
                self._write_tables()
                failures = failures + 1 if trial.state.name == "FAIL" else 0
                any_success = any(trial.state.name != "FAIL" for trial in trials)
                if failures >= (MAX_FAILURES if any_success else MAX_FAILURES_AT_START):
                    error = results.error_message(trial)
                    raise StudyError(f"{failures} trials failed in a row, the last with: {error}")

    def _run_one(self) -> None:
        """Run a trial; ignore it if another process assumed that this one died and marked the trial as failed."""
        fatal: list[BaseException] = []  # Optuna does not pass them on for such a trial

        def objective(trial: Any) -> float:
            try:
                return self.objective(trial)
            except (StudyError, OSError, StorageInternalError, KeyboardInterrupt) as error:
                fatal.append(error)
                raise

        try:
            self.study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
        except UnboundLocalError as error:  # Optuna (5.0), if it cannot record the result
            cause = error.__context__ or error
            raise cause from cause.__cause__
        except (ValueError, UpdateFinishedTrialError):
            if fatal:
                raise fatal[0] from None
            trials = self.study.get_trials(deepcopy=False)
            if not any(t.number == self.objective.current_number and t.state.name == "FAIL" for t in trials):
                raise

    def _has_remaining_trials(self) -> bool:
        fail_stale_trials(self.study)
        started = [trial for trial in results.current_trials(self.study) if trial.state.name != "WAITING"]
        return len(started) < self.objective.n_trials

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _print_trial(self, trial: FrozenTrial) -> None:
        best = results.best_trial(self.study)
        params = " ".join(f"{name}={results.format_value(value)}" for name, value in trial.params.items())
        state = {
            "COMPLETE": f"{self.metric} {results.format_value(trial.value)}",
            "PRUNED": f"pruned at {results.format_value(trial.value)}",
            "FAIL": f"failed: {results.error_message(trial)}",
        }[trial.state.name]
        best_so_far = f"best {results.format_value(best.value)} (trial {best.number})" if best else "none complete yet"
        self._print(f"trial {trial.number}: {state}; {best_so_far}; {results.duration(trial):.1f} s; {params}")

    def _remove_worse_students(self) -> None:
        best = results.best_trial(self.study)
        for trial in results.finished_trials(self.study) if self.objective.keep_models == "best" else []:
            if best is None or trial.number != best.number:
                for student in results.trial_dir(self.folder, trial.number).glob("**/student"):
                    shutil.rmtree(student, ignore_errors=True)

    def _write_tables(self) -> None:
        """Write the table of trials and the best config."""
        results.write_trials(self.folder / "trials.csv", self.study)
        best = results.best_trial(self.study)
        if best is None:
            return
        file = self.folder / "best.yaml"
        overrides = self.objective.space.overrides(FixedTrial(best.params))
        config: dict[str, Any] = self.objective.configuration.with_overrides(overrides)
        config["seed_everything"] = self.objective.seeds[0]
        scores = ", ".join(f"{value:.4f} with seed {seed}" for seed, value in results.scores(best).items())
        header = [
            f"Trial {best.number}, the best of {len(results.finished_trials(self.study))}: {self.metric} {scores}.",
            *(f"  {name} = {results.format_value(value)}" for name, value in best.params.items()),
            "",
            f"  lightning-kd fit --config {shlex.quote(str(file))}",
            "",
        ]
        results.write_config(file, config, header)

    def write_results(self) -> None:
        """Write all files and print the best trials."""
        trials = results.finished_trials(self.study)
        if not trials:
            return
        self._write_tables()
        files = [*["best.yaml"] * (results.best_trial(self.study) is not None), "trials.csv"]
        files += write_plots(self.folder, self.study, self.metric)
        states = [trial.state.name.lower() for trial in trials]
        if "complete" in states:
            self.console.print(results.best_trials_table(self.study, self.metric))
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "fail"))
        self._print(f"{len(trials)} trial{'s' if len(trials) > 1 else ''}: {counts}")
        self._print(f"Written to {self.folder}: {', '.join(files)}")
        running = [str(t.number) for t in results.current_trials(self.study) if t.state.name == "RUNNING"]
        if running:
            self._print(f"Running in other processes: trial {', '.join(running)}")

    def _check_any_complete(self) -> None:
        trials = results.current_trials(self.study)
        if any(trial.state.name in ("COMPLETE", "RUNNING") for trial in trials):
            return
        self._delete_if_all_failed()
        errors = [results.error_message(trial) for trial in trials if trial.state.name == "FAIL"]
        last = f"; the last failure: {errors[-1]}" if errors else ""
        raise StudyError(f"no trial completed, so there is no best config{last}")

    def _retry_current_trial(self) -> None:
        """Queue the interrupted trial again, and remove its files."""
        for trial in results.current_trials(self.study):  # not one that another process has queued again
            if trial.number == self.objective.current_number and trial.state.name == "FAIL":
                retry(self.study, trial, max_retries=None)
                shutil.rmtree(results.trial_dir(self.folder, trial.number), ignore_errors=True)

    def _delete_if_all_failed(self) -> None:
        """Delete the study if all trials failed, so that a corrected study can use its name."""
        if all(trial.state.name == "FAIL" for trial in results.current_trials(self.study)):
            optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage)
