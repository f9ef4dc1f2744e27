"""Score and time models side by side on the same examples."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import Split, split_dataloader, unsharded_dataloaders, with_progress_bar
from lightning_kd.evaluation.report import THROUGHPUT_BATCH_SIZE, Report, ReportRow, machine_info
from lightning_kd.export.artifacts import Artifact
from lightning_kd.models import get_id2label, input_names
from lightning_kd.models.labels import align_labels, get_label_names
from lightning_kd.outputs import Batch, predictions_agree
from lightning_kd.tasks.base import Task

NUM_LATENCY_EXAMPLES = 100
NUM_THROUGHPUT_BATCHES = 8
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class EvalResult:
    """Evaluation result of a model on a split.

    Attributes:
        scores: Metrics by name.
        confidence_interval: 95 % interval of the task's ``monitor``.
        predictions: Prediction for each example and head.
        num_examples: Number of examples, questions or masked tokens that were scored.
    """

    scores: dict[str, float]
    confidence_interval: tuple[float, float]
    predictions: Tensor
    num_examples: int


def bootstrap_interval(statistics: Tensor, score: Callable[[Tensor], float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of a score.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Args:
        statistics: Statistics of each resampling unit, (N,) or (N, k).
        score: Computes the score from statistics.
        seed: Seed of the resampling.
    """
    generator = np.random.default_rng(seed)
    count = len(statistics)
    scores = [score(statistics[torch.from_numpy(generator.choice(count, count))]) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, label_names: list[str], batches: Iterable[Batch], name: str = "the model"
) -> EvalResult:
    """Score a model on labeled batches.

    Args:
        model: The model in eval mode.
        task: Its task.
        label_names: Its label names, in the order of the batches' label indices.
        batches: Batches on its device.
        name: Its name, for the message.

    Raises:
        FloatingPointError: If one of its logits is NaN or infinite, see ``Task.check_finite``.
    """
    scores, units = task.metrics(label_names), task.per_example_metric()
    for metric in (*scores.values(), units):
        metric.distributed_available_fn = lambda: False  # do not synchronize: only rank 0 evaluates
    predictions = []
    for batch in batches:
        outputs = task.run(model, batch)
        task.check_finite(outputs, batch, name)
        task.update(scores, outputs, batch)
        task.update(MetricCollection({"units": units}), outputs, batch)
        predictions += [head.prediction for head in outputs.heads.values()]
    # torchmetrics squeezes a single value, and returns a list if there is none
    statistics = torch.atleast_1d(torch.as_tensor(units.compute())).double()
    return EvalResult(
        scores={name: float(score) for name, score in scores.compute().items()},
        confidence_interval=bootstrap_interval(statistics, task.monitor_from_statistics),
        predictions=torch.cat(predictions),
        num_examples=len(statistics),
    )


def time_interleaved(
    forward_fns: list[Callable[[Batch], object]], batches: list[Batch], repetitions: int = 3
) -> list[NDArray[np.float64]]:
    """Time functions in turn on each batch, so that a temporary slowdown of the machine affects all of them.

    A first pass over the batches warms up and is not timed.

    Args:
        forward_fns: The functions to time.
        batches: The batches to call them on.
        repetitions: Number of timed passes over the batches.

    Returns:
        For each function its durations in seconds, (repetitions * batches,).
    """
    times: list[list[float]] = [[] for _ in forward_fns]
    for repetition in range(repetitions + 1):
        for number, batch in enumerate(batches):
            for offset in range(len(forward_fns)):
                turn = (offset + number) % len(forward_fns)  # vary which function ran before, for its CPU caches
                started = time.perf_counter()
                forward_fns[turn](batch)
                if repetition:
                    times[turn].append(time.perf_counter() - started)
    return [np.array(seconds) for seconds in times]


def make_forward_fn(model: nn.Module, batch: Batch) -> Callable[[Batch], object]:
    """Return a function that runs a model's forward pass on a batch, to be timed.

    Args:
        model: The model in eval mode.
        batch: A batch whose keys determine the inputs.
    """
    names = input_names(model, batch)

    @torch.inference_mode()
    def forward_fn(batch: Batch) -> object:
        return model(**{name: batch[name] for name in names})

    return forward_fn


def build_report(
    artifacts: list[Artifact],
    task: Task,
    datamodule: TextDataModule,
    split: Split = "validation",
    ignore_label_mismatch: bool = False,
    enable_progress_bar: bool = True,
) -> Report:
    """Score and time models on a split.

    Args:
        artifacts: The models; the first is the reference of the others.
        task: The task of the models.
        datamodule: The data.
        split: A labeled split.
        ignore_label_mismatch: If True, label sets of the same size are taken to be the same, whatever their names.
        enable_progress_bar: If True, show progress bars.

    Raises:
        FloatingPointError: If a logit of a model is NaN or infinite.
        ValueError: If the labels of a model differ from those of the data.
    """
    results = []
    with unsharded_dataloaders(datamodule):
        for artifact in artifacts:
            loader = split_dataloader(datamodule, split)
            batches = with_progress_bar(loader, f"Scoring {artifact.name}", enable_progress_bar)
            label_names = datamodule.label_names or []
            results.append(_evaluate_aligned(artifact, task, label_names, batches, ignore_label_mismatch))
        speeds = _measure_speed(artifacts, datamodule, split)
    rows = [
        ReportRow(
            name=artifact.name,
            runtime=artifact.runtime,
            scores=result.scores,
            ci_low=result.confidence_interval[0],
            ci_high=result.confidence_interval[1],
            agreement=float(predictions_agree(result.predictions, results[0].predictions).double().mean()),
            num_parameters=artifact.num_parameters,
            megabytes=artifact.megabytes,
            **speed,
        )
        for artifact, result, speed in zip(artifacts, results, speeds, strict=True)
    ]
    return Report(rows, task.monitor, split, f"{results[0].num_examples:,} {task.example_unit}", machine_info())


def _evaluate_aligned(
    artifact: Artifact, task: Task, data_names: list[str], batches: Iterable[Batch], ignore_label_mismatch: bool
) -> EvalResult:
    """Score a model in its label order, and return its predictions in the label order of the data."""
    if not task.named_labels:
        return evaluate(artifact.model, task, [], batches, artifact.name)
    model_names = get_label_names(get_id2label(artifact.model)) or data_names
    parties, remedy = f"data and {artifact.name}", "use the data it was trained on"
    index = align_labels(data_names, model_names, parties, remedy, ignore_label_mismatch, subset=True)
    if index is None:
        return evaluate(artifact.model, task, model_names, batches, artifact.name)
    num_labels = len(model_names)
    remapped_batches = (task.remap_labels(batch, index, num_labels) for batch in batches)
    result = evaluate(artifact.model, task, model_names, remapped_batches, artifact.name)
    return replace(result, predictions=task.remap_predictions(result.predictions, index, num_labels))


def _measure_speed(artifacts: list[Artifact], datamodule: TextDataModule, split: Split) -> list[dict[str, Any]]:
    """Return latency, throughput and speedup of each model, as the fields of ``ReportRow``."""
    single_batches = _sample_batches(datamodule, split, 1, NUM_LATENCY_EXAMPLES)
    full_batches = _sample_batches(datamodule, split, THROUGHPUT_BATCH_SIZE, NUM_THROUGHPUT_BATCHES)
    forward_fns = [make_forward_fn(artifact.model, single_batches[0]) for artifact in artifacts]
    latencies = time_interleaved(forward_fns, single_batches)
    durations = time_interleaved(forward_fns, full_batches)
    speeds = []
    for latency, duration in zip(latencies, durations, strict=True):
        p50, p95, p99 = np.percentile(1e3 * latency, [50, 95, 99]).tolist()
        throughput = THROUGHPUT_BATCH_SIZE * len(duration) / float(duration.sum()) if full_batches else None
        speedup = float(np.median(latencies[0]) / np.median(latency))
        speeds.append({"p50": p50, "p95": p95, "p99": p99, "throughput": throughput, "speedup": speedup})
    return speeds


def _sample_batches(datamodule: TextDataModule, split: Split, batch_size: int, count: int) -> list[Batch]:
    """Return at most ``count`` full batches of a size, evenly spaced over the split."""
    eval_batch_size, datamodule.eval_batch_size = datamodule.eval_batch_size, batch_size
    try:
        batches = [batch for batch in split_dataloader(datamodule, split) if len(batch["row_id"]) == batch_size]
    finally:
        datamodule.eval_batch_size = eval_batch_size
    return [batches[i] for i in np.linspace(0, len(batches) - 1, min(count, len(batches))).astype(int)]
