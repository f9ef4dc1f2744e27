"""Checks of the teacher before the first step: its tokenizers, and its score on the validation split."""

import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torchmetrics import MetricCollection
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import load_tokenizer
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.cached_teacher import CachedTeacher
from lightning_kd.teachers.frozen_model import FrozenModel
from lightning_kd.teachers.teacher import Teacher

# ---- tokenizers


def _tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
    """Return everything that determines the ids of a text and the meaning of an id, as entries of four parts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else {}
    return {
        "vocabulary": sorted((index, token) for token, index in tokenizer.get_vocab().items()),
        "special tokens": sorted(
            (role, token, tokenizer.convert_tokens_to_ids(token))
            for role, token in tokenizer.special_tokens_map.items()
        ),
        "model": [state.get("model", {}).get("type")],
        "normalizer": sorted((state.get("normalizer") or {}).items()),
    }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the vocabulary, the special tokens, the normalizer (lowercasing, accents) and the type of model.

    Truncation and padding settings are ignored.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(_tokenizer_parts(tokenizer), sort_keys=True).encode()).hexdigest()


def _describe_difference(teacher: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    teacher_parts, other_parts = _tokenizer_parts(teacher), _tokenizer_parts(other)
    name = next(name for name in teacher_parts if teacher_parts[name] != other_parts[name])
    first, second = teacher_parts[name], other_parts[name]
    entry, other_entry = next((a, b) for a, b in zip_longest(first, second) if a != b)
    return f"{name}: {len(first)} vs. {len(second)} entries, first difference: {entry!r:.80} vs. {other_entry!r:.80}"


def _check_tokenizer(model: FrozenModel, tokenizer: PreTrainedTokenizerBase, encoder: str, remedy: str) -> None:
    """Raise a ValueError if a model was trained with another tokenizer than the one that encodes its inputs."""
    if not isinstance(model.source, str):
        return  # a module comes without a tokenizer
    try:
        expected = load_tokenizer(model.source, "teacher tokenizer", model.pinned_options)
    except OSError as error:
        rank_zero_warn(f"tokenizers not compared: {error}")
        return
    if tokenizer_fingerprint(expected) != tokenizer_fingerprint(tokenizer):
        raise ValueError(
            f"teacher {model.name!r} and {encoder} {tokenizer.name_or_path!r} have different tokenizers "
            f"({_describe_difference(expected, tokenizer)}), so the teacher would read a different text; {remedy}"
            "choose a student with the teacher's vocabulary, or accept it with "
            "--model.ignore_checks+=tokenizer_mismatch (ignore_checks=['tokenizer_mismatch'])"
        )


def _check_separate_tokenization(num_tokenizers: int, losses: nn.ModuleDict, num_models: int) -> None:
    """Raise a ValueError if there is neither one tokenizer nor one per model, or if a loss compares layers."""
    if num_tokenizers not in (1, num_models):
        raise ValueError(
            f"data.teacher_tokenizer: {num_tokenizers} tokenizers for {num_models} models; give one per model, or one "
            "for all"
        )
    for name, loss in losses.items():
        assert isinstance(loss, DistillationLoss)
        if loss.requires:
            raise ValueError(
                f"losses.{name}: compares {' and '.join(sorted(loss.requires))} token by token, but the teacher has "
                "other tokens (data.teacher_tokenizer or data.teacher_prompt); use losses on logits"
            )


def check_teacher_inputs(
    teacher: Teacher, datamodule: DataModuleInterface, losses: nn.ModuleDict, ignore_mismatch: bool
) -> None:
    """Check that the inputs of each teacher model are tokenized as in its training; warn if its prompt differs.

    Args:
        teacher: The teacher.
        datamodule: The DataModule of the run.
        losses: All losses of the run.
        ignore_mismatch: If True, do not compare tokenizers.

    Raises:
        ValueError: If a tokenizer differs, if there is neither one tokenizer nor one per model, or if the teacher has a
            separate tokenization and a loss compares layers.
    """
    separate = datamodule.teacher_tokenizers
    if separate:
        _check_separate_tokenization(len(separate), losses, len(teacher.models))
    if not isinstance(datamodule.tokenizer, PreTrainedTokenizerBase):
        return
    tokenizers = separate or [datamodule.tokenizer]
    encoder, argument, prompt = (
        ("data.teacher_tokenizer", "teacher_prompt", datamodule.teacher_prompt)
        if separate
        else ("student", "prompt", datamodule.prompt)
    )
    names = teacher.names if len(teacher.models) > 1 else teacher.names[0]
    remedy = f"set data.teacher_tokenizer={names!r}, " if datamodule.supports_teacher_tokenizer else ""
    for index, model in enumerate(teacher.models):
        if not ignore_mismatch:
            _check_tokenizer(model, tokenizers[min(index, len(tokenizers) - 1)], encoder, remedy)
        check_prompt(model.config(), prompt, f"teacher {model.name!r}", argument)


# ---- score


@torch.no_grad()
def evaluate_teacher(
    teacher: Teacher | CachedTeacher, task: Task, batches: Iterable[Batch], metrics: MetricCollection
) -> tuple[dict[str, float], Tensor]:
    """Score the teacher on labeled batches.

    Args:
        teacher: The teacher.
        task: The task.
        batches: Batches on the teacher's device, with labels in the student's order.
        metrics: New metrics on the same device.

    Returns:
        The metrics by name, and the sum of the task's ``baseline_statistics``; both over all processes.

    Raises:
        FloatingPointError: If a logit is NaN or infinite, see ``Task.check_finite``.
        ValueError: If there is no batch.
    """
    statistics: Tensor | None = None
    role = teacher.teacher.role if isinstance(teacher, CachedTeacher) else teacher.role
    for batch in batches:
        outputs = teacher(batch)
        task.check_finite(outputs, batch, role)
        task.update(metrics, outputs, batch)
        batch_statistics = task.baseline_statistics(outputs, batch)
        statistics = batch_statistics if statistics is None else statistics + batch_statistics
    if statistics is None:
        raise ValueError("the validation split is empty, so the teacher cannot be scored; add examples")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(statistics)
    return {name: float(score) for name, score in metrics.compute().items()}, statistics


def check_teacher_score(name: str, task: Task, score: float, statistics: Tensor, ignore_weak_teacher: bool) -> None:
    """Check that the teacher's score on the validation split is better than chance.

    Args:
        name: The teacher's name.
        task: The task.
        score: The teacher's value of ``task.monitor``.
        statistics: The ``baseline_statistics`` of the split.
        ignore_weak_teacher: If True, accept any score.

    Raises:
        ValueError: If the score is at chance level or worse and ``ignore_weak_teacher`` is False.
    """
    baseline = task.baseline_score(statistics)
    rank_zero_info(f"Teacher {name}: validation {task.monitor} {score:.4f}")
    if ignore_weak_teacher or (score > baseline if task.monitor_mode == "max" else score < baseline):
        return
    raise ValueError(
        f"teacher {name!r} has validation {task.monitor} {score:.4f}, not better than chance ({baseline:.4f}): its "
        "head is untrained or its labels have another order; fine-tune it first, or accept it with "
        "--model.ignore_checks+=weak_teacher (ignore_checks=['weak_teacher'])"
    )


def score_teacher(
    trainer: Trainer,
    teacher: Teacher | CachedTeacher,
    task: Task,
    metrics: MetricCollection,
    to_device: Callable[[Batch], Batch],
) -> tuple[dict[str, float], Tensor]:
    """Score the teacher on the trainer's validation split, and log ``val/teacher_<metric>``.

    Args:
        trainer: The trainer, in ``fit``, with its validation dataloader set up.
        teacher: The teacher, on the trainer's device.
        task: The task.
        metrics: New metrics on the trainer's device.
        to_device: Moves a batch to the device, with its labels in the student's order.

    Returns:
        See ``evaluate_teacher``.
    """
    loader = CombinedLoader(trainer.val_dataloaders, "sequential")
    loader.limits = trainer.num_val_batches
    batches = tqdm(
        (to_device(batch) for batch, _, _ in loader),
        desc="Teacher on validation",
        total=sum(trainer.num_val_batches),
        leave=False,
        disable=trainer.progress_bar_callback is None or not trainer.is_global_zero,
    )
    with trainer.precision_plugin.forward_context():
        scores, statistics = evaluate_teacher(teacher, task, batches, metrics)
    for logger in trainer.loggers:
        logger.log_metrics({f"val/teacher_{name}": score for name, score in scores.items()}, step=0)
    return scores, statistics
