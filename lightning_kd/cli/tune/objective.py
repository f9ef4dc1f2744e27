"""What a trial is worth: its runs, one for each seed."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Literal

from lightning_kd.cli.tune import results, storage
from lightning_kd.cli.tune.configuration import Configuration, one_line
from lightning_kd.cli.tune.space import Space
from lightning_kd.cli.tune.trial_run import Metric, ReportToTrial, StudyError, run_trial
from lightning_kd.io.atomic import DISK_FULL_ERRNOS

if TYPE_CHECKING:
    from optuna import Trial

Keep = Literal["best", "all", "none"]
KEEP: tuple[Keep, ...] = ("best", "all", "none")

STARTUP = 5
"""Trials with all seeds finished before one is stopped between two seeds."""


class TrialFailedError(Exception):
    """A trial that ended with an error of its own, which does not end the study."""


@dataclass
class Objective:
    """Runs a trial.

    Attributes:
        space: What to try.
        configuration: What a trial runs.
        metric: What is tuned.
        folder: Of the study.
        seeds: Of the runs of each trial.
        trials: Number of trials of the whole study.
        prune: Whether a trial may be stopped between two seeds, too.
        keep: Whose students to keep.
        verbose: Whether to show the bars of each run.
        running: Number of the trial that runs, or ran last.
    """

    space: Space
    configuration: Configuration
    metric: Metric
    folder: Path
    seeds: list[int]
    trials: int
    prune: bool
    keep: Keep
    verbose: bool
    running: int | None = None

    def __call__(self, trial: "Trial") -> float:
        """The mean over the seeds of the best value of the metric.

        Raises:
            TrialFailedError: After any error that may be this trial's own.
            TrialPruned: If it is stopped early.
            StudyError: If the next trial would fail, too.
            OSError: If the disk is full.
            KeyboardInterrupt: If the process was told to end.
        """
        import optuna
        from optuna.exceptions import UpdateFinishedTrialError

        self.running = trial.number
        trial.set_user_attr(storage.PROCESS, storage.identity())
        if sum(other.number < trial.number for other in results.wanted(trial.study)) >= self.trials:
            trial.set_user_attr(results.SURPLUS, True)  # two processes began the last one at the same moment
            raise TrialFailedError
        try:
            return self._run(trial)
        except (optuna.TrialPruned, StudyError):
            raise
        except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes an exit of Ctrl-C
            raise KeyboardInterrupt from stop
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
                raise
            kind = "" if isinstance(error, (ValueError, OSError, FloatingPointError)) else f"{type(error).__name__}: "
            why = kind + one_line(error)
        finally:
            for checkpoints in results.trial_folder(self.folder, trial.number).glob("**/checkpoints"):
                shutil.rmtree(checkpoints, ignore_errors=True)
        # only here: the error's traceback would keep the networks in memory
        with suppress(UpdateFinishedTrialError):  # another process took this one for dead and gave the trial up
            trial.set_user_attr(results.REASON, why)
        raise TrialFailedError(why)

    def _run(self, trial: "Trial") -> float:
        settings = self.space.settings(self.space.suggest(trial))
        scores: dict[str, float] = {}
        for seed in self.seeds:
            if scores:
                self._stop_if_worse(trial, scores)
            folder = results.trial_folder(self.folder, trial.number)
            folder = folder / f"seed_{seed}" if len(self.seeds) > 1 else folder
            config = {**self.configuration.with_settings(settings), "seed_everything": seed}
            results.write_config(folder / "config.yaml", config, [f"Trial {trial.number}"])
            watch = ReportToTrial(self.metric, None if scores else lambda step, value: self._report(trial, step, value))
            scores[str(seed)] = run_trial(folder / "config.yaml", folder, watch, self.keep != "none", self.verbose)
            trial.set_user_attr(results.SCORES, scores)
        return fmean(scores.values())

    def _report(self, trial: "Trial", step: int, value: float) -> None:
        """Tell Optuna of a validation of the first seed; its pruner compares with the same one of other trials."""
        import optuna

        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    def _stop_if_worse(self, trial: "Trial", scores: dict[str, float]) -> None:
        """Between two seeds: is the mean so far worse than the median of finished trials over the same seeds."""
        import optuna

        complete = trial.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        others = [fmean(results.scores(other)[seed] for seed in scores) for other in complete]
        if not self.prune or len(others) < STARTUP:
            return
        own, middle = fmean(scores.values()), median(others)
        if self.metric.best([own, middle]) != own:
            raise optuna.TrialPruned
