"""The loop over trials of one process."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_kd.folders import FULL
from lightning_kd.tuning import plots, results, storage
from lightning_kd.tuning.configuration import Configuration
from lightning_kd.tuning.space import Space
from lightning_kd.tuning.trial_run import Metric, ReportToTrial, StudyError, run_trial

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Keep = Literal["best", "all", "none"]
KEEP: tuple[Keep, ...] = ("best", "all", "none")

FAILURES, FAILURES_LATER = 3, 10
"""Failed trials in a row after which a process gives up, before and after any has succeeded."""

STARTUP = 5
"""Trials with all seeds finished before one is stopped between two seeds."""

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


class _TrialFailed(Exception):
    """A trial that ended with an error of its own."""


@dataclass
class Search:
    """Trials of a study, one after the other, until it has as many as wanted.

    Attributes:
        study: Which other processes may work on, too.
        space: What to try.
        configuration: What a trial runs.
        metric: What is tuned.
        folder: Where everything goes.
        seeds: Of the runs of each trial.
        trials: Number of trials of the whole study.
        prune: Whether a trial may be stopped between two seeds.
        keep: Whose students to keep.
        verbose: Whether to show the bars of each run.
        console: Where to print.
    """

    study: "Study"
    space: Space
    configuration: Configuration
    metric: Metric
    folder: Path
    seeds: list[int]
    trials: int
    prune: bool
    keep: Keep
    verbose: bool
    console: Console

    def __post_init__(self) -> None:
        self._running: int | None = None

    def run(self) -> None:
        """Run trials, then write what was found.

        Raises:
            StudyError: If all trials fail.
            OSError: If the disk is full.
            SystemExit: After Ctrl-C, with status 130.
        """
        try:
            self._loop()
        except KeyboardInterrupt:
            self._queue_again()
            self.finish()
            self.console.print("Interrupted; the same command continues the study.", highlight=False)
            sys.exit(INTERRUPTED)
        except OSError:  # of a disk that is full; other errors belong to a trial
            self._queue_again()
            raise
        except StudyError:
            self._forget_if_useless()
            raise
        self.finish()

    def _loop(self) -> None:
        in_a_row = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        hidden = self.verbose or not self.console.is_terminal
        with Progress(*columns, *times, console=self.console, disable=hidden) as progress:
            bar = progress.add_task("trials", total=self.trials)
            while self._more():
                progress.update(bar, completed=len(results.counted(self.study)))
                self.study.optimize(self._objective, n_trials=1, catch=(_TrialFailed,))
                number, self._running = self._running, None
                trial = next((trial for trial in results.counted(self.study) if trial.number == number), None)
                if trial is None:  # surplus, or given up by another process
                    continue
                self._say(trial)
                self._tidy()
                self.write()
                in_a_row = in_a_row + 1 if trial.state.name == "FAIL" else 0
                self._check_failures(in_a_row, results.reason(trial))
            progress.update(bar, completed=len(results.counted(self.study)))

    def _more(self) -> bool:
        from optuna.storages import fail_stale_trials

        fail_stale_trials(self.study)
        taken = [trial for trial in results.wanted(self.study) if trial.state.name != "WAITING"]
        return len(taken) < self.trials

    def _check_failures(self, in_a_row: int, why: str) -> None:
        useful = any(trial.state.name != "FAIL" for trial in results.counted(self.study))
        if in_a_row >= (FAILURES_LATER if useful else FAILURES):
            raise StudyError(f"{in_a_row} trials failed one after the other, the last one: {why}")

    # ---- a trial

    def _objective(self, trial: "Trial") -> float:
        import optuna

        self._running = trial.number
        trial.set_user_attr(storage.PROCESS, storage.identity())
        if sum(other.number < trial.number for other in results.wanted(self.study)) >= self.trials:
            trial.set_user_attr(results.SURPLUS, True)  # two processes began the last one at the same moment
            raise _TrialFailed
        try:
            return self._run(trial)
        except (optuna.TrialPruned, StudyError):
            raise
        except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes an exit of Ctrl-C
            raise KeyboardInterrupt from stop
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            kind = "" if isinstance(error, (ValueError, OSError, FloatingPointError)) else f"{type(error).__name__}: "
            why = kind + (" ".join(str(error).split()) or type(error).__name__)
        finally:
            for checkpoints in self._folder(trial.number).glob("**/checkpoints"):
                shutil.rmtree(checkpoints, ignore_errors=True)
        # outside: the error's traceback would keep the network
        trial.set_user_attr(results.REASON, why)
        raise _TrialFailed(why)

    def _run(self, trial: "Trial") -> float:
        settings = self.space.settings(self.space.suggest(trial))
        own: dict[str, float] = {}
        for place, seed in enumerate(self.seeds):
            folder = self._folder(trial.number) / (f"seed_{seed}" if len(self.seeds) > 1 else "")
            content = self.configuration.with_settings(settings)
            content["seed_everything"] = seed
            results.write_config(folder / "config.yaml", content, [f"Trial {trial.number}"])
            watch = ReportToTrial(self.metric, lambda step, value: self._report(trial, step, value))
            if place:
                watch.report = lambda step, value: None
            own[str(seed)] = run_trial(folder / "config.yaml", folder, watch, self.keep != "none", self.verbose)
            trial.set_user_attr(results.SCORES, own)
            if 0 < place < len(self.seeds) - 1 or (place == 0 and len(self.seeds) > 1):
                self._compare(own)
        return fmean(own.values())

    def _report(self, trial: "Trial", step: int, value: float) -> None:
        import optuna

        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    def _compare(self, own: dict[str, float]) -> None:
        """Stop between two seeds where the mean so far is worse than the median of finished trials over the same."""
        import optuna

        complete = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        others = [fmean(results.scores(trial)[seed] for seed in own) for trial in complete]
        if not self.prune or len(others) < STARTUP:
            return
        ours, middle = fmean(own.values()), median(others)
        if self.metric.best([ours, middle]) != ours:
            raise optuna.TrialPruned

    # ---- around a trial

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:05}"

    def _say(self, trial: "FrozenTrial") -> None:
        best = results.best_trial(self.study)
        parameters = " ".join(f"{name}={results.readable(value)}" for name, value in trial.params.items())
        value = results.readable(trial.value)
        state = {
            "COMPLETE": f"{self.metric.name} {value}",
            "PRUNED": f"stopped early at {value}",
            "FAIL": f"failed: {results.reason(trial)}",
        }[trial.state.name]
        so_far = f"best {results.readable(best.value)} (trial {best.number})" if best else "none finished yet"
        line = f"trial {trial.number}: {state}; {so_far}; {results.duration(trial):.1f} s; {parameters}"
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _tidy(self) -> None:
        """Remove the students of all finished trials but the best."""
        best = results.best_trial(self.study)
        for trial in results.counted(self.study) if self.keep == "best" else []:
            if best is None or trial.number != best.number:
                for student in self._folder(trial.number).glob("**/student"):
                    shutil.rmtree(student, ignore_errors=True)

    def write(self) -> None:
        """Write the table of trials and the best config."""
        names = [parameter.name for parameter in self.space.parameters]
        results.write_trials(self.folder / "trials.csv", self.study, names)
        best = results.best_trial(self.study)
        if best is None:
            return
        file = self.folder / "best.yaml"
        config: dict[str, Any] = self.configuration.with_settings(self.space.settings(best.params))
        config["seed_everything"] = self.seeds[0]
        own = ", ".join(f"{value:.4f} with seed {seed}" for seed, value in results.scores(best).items())
        header = [
            f"The best of {len(results.counted(self.study))} trials, number {best.number}: {self.metric.name} {own}.",
            *(f"  {name} = {results.readable(value)}" for name, value in best.params.items()),
            "",
            f"  lightning-kd fit --config {file}",
            "",
        ]
        results.write_config(file, config, header)

    def finish(self) -> None:
        """Write everything and show the best trials."""
        trials = results.counted(self.study)
        if not trials:
            return
        self.write()
        names = [parameter.name for parameter in self.space.parameters]
        drawn = plots.write(self.folder, self.study, self.space.parameters, self.metric.name)
        states = [trial.state.name for trial in trials]
        if "COMPLETE" in states:
            self.console.print(results.table(self.study, names, self.metric.name))
        counts = f"{states.count('COMPLETE')} finished, {states.count('PRUNED')} stopped early, {states.count('FAIL')} failed"
        self.console.print(f"{len(trials)} trials: {counts}; written to {self.folder}: {', '.join(drawn)}", soft_wrap=True)

    def _queue_again(self) -> None:
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number == self._running and trial.state.name == "FAIL":
                storage.queue_again(self.study, trial)
                shutil.rmtree(self._folder(trial.number), ignore_errors=True)

    def _forget_if_useless(self) -> None:
        """Remove a study in which nothing but failures happened, so that a corrected one can have its name."""
        import optuna

        if all(trial.state.name == "FAIL" for trial in results.wanted(self.study)):
            optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage)
