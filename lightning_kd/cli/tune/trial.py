"""One trial: a run of ``fit`` that reports each validation to Optuna and may be pruned."""

import gc
import math
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_kd.callbacks import LastCheckpoint, PredictionWriter, RunSummary, StudentExport, TemperatureProbe
from lightning_kd.callbacks.compression_report import CompressionReport
from lightning_kd.callbacks.export_base import Export
from lightning_kd.callbacks.push_to_hub import PushToHub
from lightning_kd.cli.fit import FitCLI

DROPPED_CALLBACKS = (
    Export,
    CompressionReport,
    PushToHub,
    PredictionWriter,
    RunSummary,
    LastCheckpoint,
    TemperatureProbe,
)
"""Callbacks that trials leave out; a run of the best config has them."""

BUILTIN_PACKAGES = ("lightning", "lightning_kd")
"""Packages whose callbacks log nothing under ``val/``."""


class StudyError(ValueError):
    """An error that all trials share, so that the study stops."""


@dataclass(frozen=True)
class Metric:
    """The metric to optimize.

    Attributes:
        name: Name under which it is logged, such as ``val/accuracy``.
        mode: If ``max``, larger is better; if ``min``, smaller.
    """

    name: str
    mode: Literal["min", "max"]

    def best(self, values: list[float]) -> float:
        """Return the best of some values."""
        return max(values) if self.mode == "max" else min(values)


class ReportToTrial(Callback):
    """Record the metric after each validation, and report it to a trial.

    Optuna's ``PyTorchLightningPruningCallback`` prunes by the latest value and only warns about a missing metric.

    Args:
        metric: The metric to read.
        trial: The trial to report the best value so far to, and to prune; None = record only.
    """

    def __init__(self, metric: Metric, trial: optuna.Trial | None) -> None:
        self.metric = metric
        self.trial = trial
        self.values: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the metric; the sanity check before training shows early that it is missing.

        Raises:
            StudyError: If the metric is not logged.
            FloatingPointError: If it is not finite.
            TrialPruned: If the trial is pruned.
        """
        value = trainer.callback_metrics.get(self.metric.name)
        if trainer.sanity_checking and (value is not None or _has_user_callbacks(trainer)):
            return
        if value is None:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise StudyError(f"--metric: {self.metric.name!r} is not logged; choose from {known}")
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.metric.name} is {float(value)} after validation {len(self.values) + 1}")
        self.values.append(float(value))
        if self.trial is not None:
            self.trial.report(self.metric.best(self.values), len(self.values))
            if self.trial.should_prune():
                raise optuna.TrialPruned


def _has_user_callbacks(trainer: Trainer) -> bool:
    """Return True if callbacks of other packages exist, which may log nothing in the sanity check."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(type(callback).__module__.partition(".")[0] not in BUILTIN_PACKAGES for callback in callbacks)


class _TrialCLI(FitCLI):
    """``fit`` without the callbacks of ``DROPPED_CALLBACKS``; see ``run_trial`` for the arguments."""

    def __init__(self, folder: Path, report: ReportToTrial, keep_student: bool, verbose: bool) -> None:
        self._report = report
        self._keep_student = keep_student
        self._verbose = verbose
        super().__init__(["fit", "--config", str(folder / "config.yaml")], folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create a quiet trainer on one device.

        Raises:
            StudyError: If there are several devices.
        """
        quiet = {} if self._verbose else {"enable_progress_bar": False, "enable_model_summary": False}
        trainer = super().instantiate_trainer(**quiet, **kwargs)
        if trainer.world_size > 1:
            raise StudyError(
                f"trainer.devices: a trial trains on one device, got {trainer.world_size}; add --trainer.devices=1 and "
                "start one process for each device (CUDA_VISIBLE_DEVICES=0, 1, ...)"
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks = [callback for callback in callbacks if not isinstance(callback, DROPPED_CALLBACKS)]
        if self._keep_student:
            callbacks.insert(0, StudentExport())
        else:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
        trainer.callbacks = [*callbacks, self._report]  # type: ignore[attr-defined]
        return trainer

    def _best_checkpoint(self) -> ModelCheckpoint:
        checkpoint = super()._best_checkpoint()
        checkpoint.save_weights_only = True
        return checkpoint


def run_trial(folder: Path, report: ReportToTrial, keep_student: bool, verbose: bool) -> float:
    """Run ``fit`` and return the best value of the metric.

    Args:
        folder: Folder with ``config.yaml``, for the logs and the student.
        report: Callback that records the metric.
        keep_student: If True, write the best student to ``student`` in the folder.
        verbose: If True, show Lightning's progress bar.

    Raises:
        StudyError: If no validation ran.
    """
    try:
        with nullcontext() if verbose else redirect_stdout(StringIO()):  # tables that callbacks print
            _TrialCLI(folder, report, keep_student, verbose)
    finally:
        gc.collect()  # trainer and module reference each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if not report.values:
        raise StudyError("trainer.limit_val_batches: no validation ran, so there is no metric; raise it")
    return report.metric.best(report.values)
