"""One trial: a run of ``fit`` that reports each validation, and may be stopped after any."""

import gc
import math
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_kd.callbacks import LastCheckpoint, PredictionWriter, RunSummary, StudentExport, TemperatureProbe
from lightning_kd.callbacks.compression_report import CompressionReport
from lightning_kd.callbacks.export import Export
from lightning_kd.callbacks.push_to_hub import PushToHub
from lightning_kd.cli.fit import FitCLI

WITHOUT = (Export, CompressionReport, PushToHub, PredictionWriter, RunSummary, LastCheckpoint, TemperatureProbe)
"""Callbacks for a run one wants to keep; the run of the best configuration has them again."""

OURS = ("lightning", "lightning_kd")
"""Packages whose callbacks log nothing under ``val/``."""

Mode = Literal["min", "max"]


class StudyError(ValueError):
    """What is wrong with all trials alike, so that the study stops."""


@dataclass(frozen=True)
class Metric:
    """What is tuned.

    Attributes:
        name: Such as ``val/accuracy``.
        mode: Whether a larger or a smaller value is better.
    """

    name: str
    mode: Mode

    def best(self, values: list[float]) -> float:
        """The best of some values."""
        return max(values) if self.mode == "max" else min(values)


class ReportToTrial(Callback):
    """Hands the metric on after each validation.

    Args:
        metric: What to read.
        report: Called with the number of the validation, from 1, and the best value so far; it may raise. None = none.
    """

    def __init__(self, metric: Metric, report: Callable[[int, float], None] | None) -> None:
        self.metric = metric
        self.report = report
        self.values: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, unless it was the check before training, which shows whether there is such a metric.

        Raises:
            StudyError: If there is no such metric.
            FloatingPointError: If it is no number.
        """
        value = trainer.callback_metrics.get(self.metric.name)
        if trainer.sanity_checking and (value is not None or _others_may_log(trainer)):
            return
        if value is None:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise StudyError(f"--metric: {self.metric.name!r} is not logged; there are {known}")
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.metric.name} is {float(value)} after validation {len(self.values) + 1}")
        self.values.append(float(value))
        if self.report is not None:
            self.report(len(self.values), self.metric.best(self.values))


def _others_may_log(trainer: Trainer) -> bool:
    """Whether there are callbacks of the user's own, some of which log nothing in the check before training."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(type(callback).__module__.partition(".")[0] not in OURS for callback in callbacks)


class _TrialCLI(FitCLI):
    """``fit`` without what is for a run one wants to keep.

    Args:
        config: The YAML file.
        folder: The trial's own.
        watch: Reports the metric.
        keep_student: Whether to write the best student to ``student`` in the folder.
        verbose: Whether to show Lightning's bar.
    """

    def __init__(self, config: Path, folder: Path, watch: ReportToTrial, keep_student: bool, verbose: bool) -> None:
        self._watch = watch
        self._keep_student = keep_student
        self._verbose = verbose
        super().__init__(["fit", "--config", str(config)], folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A quiet trainer on one device."""
        quiet = {} if self._verbose else {"enable_progress_bar": False, "enable_model_summary": False}
        trainer = super().instantiate_trainer(**quiet, **kwargs)
        if trainer.world_size > 1:
            raise StudyError(
                f"trainer.devices: a trial trains on one device, these are {trainer.world_size}; add "
                "--trainer.devices=1, and start one process for each device (CUDA_VISIBLE_DEVICES=0, 1, ...)"
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks = [callback for callback in callbacks if not isinstance(callback, WITHOUT)]
        if self._keep_student:
            callbacks.insert(0, StudentExport())
        else:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
        trainer.callbacks = [*callbacks, self._watch]  # type: ignore[attr-defined]
        return trainer

    def _best_checkpoint(self) -> ModelCheckpoint:
        checkpoint = super()._best_checkpoint()
        checkpoint.save_weights_only = True
        return checkpoint


def run_trial(config: Path, folder: Path, watch: ReportToTrial, keep_student: bool, verbose: bool) -> float:
    """Run ``fit``.

    Args:
        config: The YAML file.
        folder: Where logs go, and the student.
        watch: Reports the metric.
        keep_student: Whether to write the best student.
        verbose: Whether to show Lightning's bar.

    Returns:
        The best value of the metric.

    Raises:
        StudyError: If nothing was validated.
    """
    silence = nullcontext() if verbose else redirect_stdout(StringIO())  # tables that callbacks print
    try:
        with silence:
            _TrialCLI(config, folder, watch, keep_student, verbose)
    finally:
        gc.collect()  # trainer and module point at each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if not watch.values:
        raise StudyError("nothing was validated, so there is nothing to tune by; see trainer.limit_val_batches")
    return watch.metric.best(watch.values)
