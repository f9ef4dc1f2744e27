"""How good and how fast networks are, side by side on the same rows."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_kd.models import input_names
from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class EvalResult:
    """What a network says about a split.

    Attributes:
        scores: Its metrics by name.
        confidence_interval: Ends of the 95 % interval of the task's ``monitor``.
        predictions: The class it chose for each row and head.
        num_examples: How many rows, questions or hidden tokens were scored.
    """

    scores: dict[str, float]
    confidence_interval: tuple[float, float]
    predictions: Tensor
    num_examples: int


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean, 95 % (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).

    Args:
        values: Of each unit that is drawn again, (N,).
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = [float(generator.choice(values, count).mean()) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _not_distributed() -> bool:
    """For metrics: one process measures, the others do not wait for it to compare notes."""
    return False


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, label_names: list[str], batches: Iterable[Batch]) -> EvalResult:
    """Score a network on labelled batches.

    Args:
        model: In eval mode.
        task: Its task.
        label_names: Its labels, in whose order those of the batches are.
        batches: On its device.
    """
    scores, units = task.metrics(label_names), task.per_example_metric()
    for metric in (*scores.values(), units):
        metric.distributed_available_fn = _not_distributed
    predictions = []
    for batch in batches:
        outputs = task.run(model, batch)
        task.update(scores, outputs, batch)
        task.update(MetricCollection({"units": units}), outputs, batch)
        predictions += [head.prediction for head in outputs.heads.values()]
    values = units.compute().double().reshape(-1).numpy()  # torchmetrics makes a number of a single one
    low, high = map(task.monitor_from_mean, bootstrap_interval(values))
    scores_by_name = {name: float(score) for name, score in scores.compute().items()}
    return EvalResult(scores_by_name, (low, high), torch.cat(predictions), len(values))


def time_interleaved(
    forward_fns: list[Callable[[Batch], object]], batches: list[Batch], repetitions: int = 3
) -> list[NDArray[np.float64]]:
    """Seconds that each program takes for each batch, all of them in turn on one batch before the next.

    So whatever slows the machine down for a while slows all of them. The first pass warms up and is not counted.

    Returns:
        (repetitions * batches,) of each.
    """
    times: list[list[float]] = [[] for _ in forward_fns]
    for repetition in range(repetitions + 1):
        for number, batch in enumerate(batches):
            for offset in range(len(forward_fns)):
                turn = (offset + number) % len(forward_fns)  # nobody always runs on the caches of the same neighbour
                started = time.perf_counter()
                forward_fns[turn](batch)
                if repetition:
                    times[turn].append(time.perf_counter() - started)
    return [np.array(seconds) for seconds in times]


def make_forward_fn(model: nn.Module, batch: Batch) -> Callable[[Batch], object]:
    """What is timed: a forward pass, from tensors to tensors.

    Args:
        model: In eval mode.
        batch: Any; names the inputs.
    """
    names = input_names(model, batch)

    def forward_fn(batch: Batch) -> object:
        with torch.inference_mode():
            return model(**{name: batch[name] for name in names})

    return forward_fn
