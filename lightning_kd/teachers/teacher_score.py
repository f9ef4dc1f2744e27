"""Whether a teacher knows something: its score on the validation split before the first step."""

import math
from collections.abc import Callable, Iterable
from itertools import chain, islice

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MetricCollection
from tqdm.auto import tqdm

from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.cache import CachedTeacher
from lightning_kd.teachers.teacher import Teacher

TeacherLike = Teacher | CachedTeacher


@torch.no_grad()
def evaluate_teacher(
    teacher: TeacherLike, task: Task, batches: Iterable[Batch], metrics: MetricCollection
) -> tuple[dict[str, float], Tensor]:
    """Score the teacher on labelled batches that are on its device already.

    Returns:
        Its metrics by name, and how often each class occurred; both over all processes.
    """
    label_counts: Tensor | None = None
    for batch in batches:
        outputs = teacher(batch)
        task.update(metrics, outputs, batch)
        counts = task.label_counts(outputs, batch)
        label_counts = counts if label_counts is None else label_counts + counts
    if label_counts is None:
        raise ValueError("the validation split has no batch, so the teacher cannot be checked; give it rows")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(label_counts)
    return {name: float(score) for name, score in metrics.compute().items()}, label_counts


def check_teacher_score(name: str, task: Task, score: float, label_counts: Tensor, ignore_weak_teacher: bool) -> None:
    """Refuse a teacher that may be guessing.

    Raises:
        ValueError: If its score on the validation split is at chance or worse and ``ignore_weak_teacher`` is False.
    """
    baseline = task.baseline_score(label_counts)
    rank_zero_info(f"Teacher {name}: validation {task.monitor} {score:.4f}")
    if ignore_weak_teacher or (score > baseline if task.monitor_mode == "max" else score < baseline):
        return
    bound = "up to" if task.monitor_mode == "max" else "down to"
    raise ValueError(
        f"teacher {name!r} has validation {task.monitor} {score:.4f}, no better than guessing ({bound} "
        f"{baseline:.4f}): "
        "its head is untrained or its labels are in another order; fine-tune it first, or accept it with "
        "--model.ignore_checks+=weak_teacher (ignore_checks=['weak_teacher'])"
    )


def score_teacher(
    trainer: Trainer, teacher: TeacherLike, task: Task, metrics: MetricCollection, to_device: Callable[[Batch], Batch]
) -> tuple[dict[str, float], Tensor]:
    """Score the teacher on the trainer's validation split, behind a progress bar, and log ``val/teacher_<metric>``.

    Args:
        trainer: In ``fit``, its validation loader set up.
        teacher: On the trainer's device.
        task: Its heads.
        metrics: Fresh metrics on that device.
        to_device: Brings a batch there, its labels in the student's order.

    Returns:
        As ``evaluate_teacher``.
    """
    loaders = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    sizes = [None if math.isinf(limit) else int(limit) for limit in trainer.num_val_batches]
    loader_batches = chain.from_iterable(islice(loader, size) for loader, size in zip(loaders, sizes, strict=True))
    show_progress = trainer.progress_bar_callback is not None and trainer.is_global_zero
    batches = tqdm(
        map(to_device, loader_batches),
        desc="Teacher on validation",
        total=None if None in sizes else sum(size or 0 for size in sizes),
        leave=False,
        disable=not show_progress,
    )
    with trainer.precision_plugin.forward_context():
        scores, label_counts = evaluate_teacher(teacher, task, batches, metrics)
    for logger in trainer.loggers:
        logger.log_metrics({f"val/teacher_{name}": score for name, score in scores.items()}, step=0)
    return scores, label_counts
