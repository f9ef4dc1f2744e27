"""The loop over trials of one process."""

import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_kd.cli.tune import plots, results, storage
from lightning_kd.cli.tune.objective import Objective, TrialFailedError
from lightning_kd.cli.tune.trial_run import StudyError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

FAILURES, FAILURES_LATER = 3, 10
"""Failed trials in a row after which a process gives up, before and after any has succeeded."""

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


class Search:
    """Trials of a study, one after the other, until it has as many as wanted.

    Args:
        study: Which other processes may work on, too.
        objective: Runs a trial.
        console: Where to print.
    """

    def __init__(self, study: "Study", objective: Objective, console: Console) -> None:
        self.study = study
        self.objective = objective
        self.console = console
        self.folder = objective.folder
        self.metric = objective.metric.name

    def run(self) -> None:
        """Run trials, then write what was found.

        Raises:
            StudyError: If no trial is complete in the end, or too many fail in a row.
            OSError: If the disk is full.
            SystemExit: After Ctrl-C, with status 130.
        """
        try:
            self._loop()
        except KeyboardInterrupt:
            self._queue_again()
            self.finish()
            self._print("Interrupted; the same command continues the study.")
            sys.exit(INTERRUPTED)
        except OSError:  # of a disk that is full; any other belongs to a trial
            self._queue_again()
            raise
        except StudyError:
            self._forget_if_useless()
            raise
        self.finish()
        self._check_useful()

    def _loop(self) -> None:
        in_a_row, total = 0, self.objective.trials
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        hidden = self.objective.verbose or not self.console.is_terminal
        with Progress(*columns, *times, console=self.console, disable=hidden) as progress:
            bar = progress.add_task("trials", total=total, completed=len(results.counted(self.study)))
            while self._more():
                self._run_one()
                trials = results.counted(self.study)
                progress.update(bar, completed=len(trials))
                trial = next((trial for trial in trials if trial.number == self.objective.running), None)
                self.objective.running = None
                if trial is None:  # surplus, or given up by another process
                    continue
                self._say(trial)
                self._tidy()
                self.write()
                in_a_row = in_a_row + 1 if trial.state.name == "FAIL" else 0
                useful = any(trial.state.name != "FAIL" for trial in trials)
                if in_a_row >= (FAILURES_LATER if useful else FAILURES):
                    raise StudyError(f"{in_a_row} trials failed in a row, the last one: {results.reason(trial)}")

    def _run_one(self) -> None:
        """Run a trial; it comes to nothing if another process gave it up meanwhile, taking this one for dead."""
        from optuna.exceptions import UpdateFinishedTrialError

        ends: list[BaseException] = []  # which Optuna would not pass on for such a trial

        def objective(trial: "Trial") -> float:
            try:
                return self.objective(trial)
            except (StudyError, OSError, KeyboardInterrupt) as error:
                ends.append(error)
                raise

        try:
            self.study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
        except (ValueError, UpdateFinishedTrialError):
            trials = self.study.get_trials(deepcopy=False)
            given_up = any(t.number == self.objective.running and t.state.name == "FAIL" for t in trials)
            if ends:
                raise ends[0] from None
            if not given_up:
                raise

    def _more(self) -> bool:
        """Whether there is a trial left that no process has begun."""
        from optuna.storages import fail_stale_trials

        fail_stale_trials(self.study)
        begun = [trial for trial in results.wanted(self.study) if trial.state.name != "WAITING"]
        return len(begun) < self.objective.trials

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _say(self, trial: "FrozenTrial") -> None:
        best = results.best_trial(self.study)
        parameters = " ".join(f"{name}={results.readable(value)}" for name, value in trial.params.items())
        state = {
            "COMPLETE": f"{self.metric} {results.readable(trial.value)}",
            "PRUNED": f"pruned at {results.readable(trial.value)}",
            "FAIL": f"fail: {results.reason(trial)}",
        }[trial.state.name]
        so_far = f"best {results.readable(best.value)} (trial {best.number})" if best else "none complete yet"
        self._print(f"trial {trial.number}: {state}; {so_far}; {results.duration(trial):.1f} s; {parameters}")

    def _tidy(self) -> None:
        """Remove the students of all finished trials but the best."""
        best = results.best_trial(self.study)
        for trial in results.counted(self.study) if self.objective.keep == "best" else []:
            if best is None or trial.number != best.number:
                for student in results.trial_folder(self.folder, trial.number).glob("**/student"):
                    shutil.rmtree(student, ignore_errors=True)

    def write(self) -> None:
        """Write the table of trials and the best config."""
        space, configuration = self.objective.space, self.objective.configuration
        results.write_trials(self.folder / "trials.csv", self.study, space.names)
        best = results.best_trial(self.study)
        if best is None:
            return
        file = self.folder / "best.yaml"
        config: dict[str, Any] = configuration.with_settings(space.settings(best.params))
        config["seed_everything"] = self.objective.seeds[0]
        scores = ", ".join(f"{value:.4f} with seed {seed}" for seed, value in results.scores(best).items())
        header = [
            f"Trial {best.number}, the best of {len(results.counted(self.study))}: {self.metric} {scores}.",
            *(f"  {name} = {results.readable(value)}" for name, value in best.params.items()),
            "",
            f"  lightning-kd fit --config {shlex.quote(str(file))}",
            "",
        ]
        results.write_config(file, config, header)

    def finish(self) -> None:
        """Write everything and show the best trials."""
        trials = results.counted(self.study)
        if not trials:
            return
        self.write()
        drawn = plots.write(self.folder, self.study, self.objective.space, self.metric)
        states = [trial.state.name.lower() for trial in trials]
        if "complete" in states:
            self.console.print(results.table(self.study, self.objective.space.names, self.metric))
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "fail"))
        self._print(f"{len(trials)} trial{'s' if len(trials) > 1 else ''}: {counts}")
        self._print(f"Written to {self.folder}: {', '.join(drawn)}")
        running = [t for t in results.wanted(self.study) if t.state.name == "RUNNING"]
        if running:
            self._print(f"In other processes: trial {', '.join(str(t.number) for t in running)}")

    def _check_useful(self) -> None:
        trials = results.wanted(self.study)
        if any(trial.state.name in ("COMPLETE", "RUNNING") for trial in trials):
            return
        self._forget_if_useless()
        reasons = [results.reason(trial) for trial in trials if trial.state.name == "FAIL"]
        last = f"; the last failure: {reasons[-1]}" if reasons else ""
        raise StudyError(f"no trial is complete, so there is no best config{last}")

    def _queue_again(self) -> None:
        """Queue the trial that was interrupted, and remove what it wrote."""
        for trial in results.wanted(self.study):  # not one that another process has queued again
            if trial.number == self.objective.running and trial.state.name == "FAIL":
                storage.queue_again(self.study, trial)
                shutil.rmtree(results.trial_folder(self.folder, trial.number), ignore_errors=True)

    def _forget_if_useless(self) -> None:
        """Remove a study of nothing but failures, so that a corrected one can have its name."""
        import optuna

        if all(trial.state.name == "FAIL" for trial in results.wanted(self.study)):
            optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage)
