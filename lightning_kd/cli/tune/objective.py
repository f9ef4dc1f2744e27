"""The objective of a study: the mean score of a trial's runs, one for each seed."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

from lightning_kd.cli.errors import describe_error
from lightning_kd.cli.tune import results
from lightning_kd.cli.tune.configuration import Configuration
from lightning_kd.cli.tune.space import SearchSpace
from lightning_kd.cli.tune.study import PROCESS_ATTR, process_name
from lightning_kd.cli.tune.trial import Metric, ReportToTrial, StudyError, run_trial
from lightning_kd.io.atomic import DISK_FULL_ERRNOS

MIN_TRIALS_FOR_SEED_PRUNING = 5
"""Complete trials before a trial may be pruned between two seeds."""


class TrialFailedError(Exception):
    """A trial that failed; the study continues."""


@dataclass
class Objective:
    """Run a trial and return its score.

    Attributes:
        space: The search space.
        configuration: The config that the trials override.
        metric: The metric to optimize.
        folder: Folder of the study.
        seeds: Seeds of the runs of each trial.
        n_trials: Number of trials of the whole study.
        prune: If True, trials may also be pruned between two seeds.
        keep_models: Which trials keep their student: ``best``, ``all`` or ``none``.
        verbose: If True, show the progress bar of each run.
        current_number: Number of the trial that runs, or ran last.
    """

    space: SearchSpace
    configuration: Configuration
    metric: Metric
    folder: Path
    seeds: list[int]
    n_trials: int
    prune: bool
    keep_models: str
    verbose: bool
    current_number: int | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the mean over the seeds of the best value of the metric.

        Raises:
            TrialFailedError: After an error that may be specific to this trial.
            TrialPruned: If the trial is stopped early.
            StudyError: If every trial would fail the same way.
            OSError: If the disk is full.
            StorageInternalError: If the database fails.
            KeyboardInterrupt: If the process was interrupted.
        """
        self.current_number = trial.number
        trial.set_user_attr(PROCESS_ATTR, process_name())
        if sum(other.number < trial.number for other in results.current_trials(trial.study)) >= self.n_trials:
            trial.set_user_attr(results.DISCARDED_ATTR, True)  # two processes started the last trial together
            raise TrialFailedError
        try:
            return self._run(trial)
        except (optuna.TrialPruned, StudyError, StorageInternalError):
            raise
        except (KeyboardInterrupt, SystemExit) as interrupt:  # Lightning exits on Ctrl-C
            raise KeyboardInterrupt from interrupt
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
                raise
            message = describe_error(error)
        finally:
            for checkpoints in results.trial_dir(self.folder, trial.number).glob("**/checkpoints"):
                shutil.rmtree(checkpoints, ignore_errors=True)
        # outside of the handler: the traceback of the error would keep the models in memory
        with suppress(UpdateFinishedTrialError):  # another process assumed that this one died
            trial.set_user_attr(results.ERROR_ATTR, message)
        raise TrialFailedError(message)

    def _run(self, trial: optuna.Trial) -> float:
        overrides = self.space.overrides(trial)
        scores: dict[str, float] = {}
        for seed in self.seeds:
            if scores:
                self._prune_between_seeds(trial, scores)
            folder = results.trial_dir(self.folder, trial.number)
            if len(self.seeds) > 1:
                folder /= f"seed_{seed}"
            config = {**self.configuration.with_overrides(overrides), "seed_everything": seed}
            results.write_config(folder / "config.yaml", config, [f"Trial {trial.number}"])
            # the pruner compares the first seed with the first seed of other trials
            callback = ReportToTrial(self.metric, None if scores else trial)
            scores[str(seed)] = run_trial(folder, callback, self.keep_models != "none", self.verbose)
            trial.set_user_attr(results.SCORES_ATTR, scores)
        return fmean(scores.values())

    def _prune_between_seeds(self, trial: optuna.Trial, scores: dict[str, float]) -> None:
        """Prune if the mean so far is worse than the median of complete trials over the same seeds."""
        complete = results.complete_trials(trial.study)
        others = [fmean(results.scores(other)[seed] for seed in scores) for other in complete]
        if not self.prune or len(others) < MIN_TRIALS_FOR_SEED_PRUNING:
            return
        mean, threshold = fmean(scores.values()), median(others)
        if self.metric.best([mean, threshold]) != mean:
            raise optuna.TrialPruned
