"""Checks before the first step, for mistakes that would otherwise waste a run or make its results meaningless."""

from collections.abc import Mapping
from typing import Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelPruning, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import get_config, max_positions, model_dims
from lightning_kd.models.qkv_hooks import qkv_layers
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training.loss_schedules import LossSchedules

IgnorableCheck = Literal["tokenizer_mismatch", "label_mismatch", "weak_teacher"]
"""Checks that ``ignore_checks`` turns off."""

Losses = Mapping[str, DistillationLoss]


def check_losses(losses: Losses, task: Task, is_cached: bool) -> None:
    """Check that the names of the losses are valid, and that the heads of the task and a teacher cache support them.

    Args:
        losses: The losses by name.
        task: The task.
        is_cached: True if the losses read a teacher cache, which keeps only logits.

    Raises:
        ValueError: If there is no loss; a name cannot be logged or stored in an ``nn.ModuleDict``; a loss compares
            classes and the heads have none; a loss compares each class between examples and the classes are positions;
            or a loss compares layers and ``is_cached`` is True.
    """
    if not losses:
        raise ValueError("losses: empty; give at least one, such as hard: HardLabelLoss")
    for name, loss in losses.items():
        loss_class, task_class = type(loss).__name__, type(task).__name__
        if name == "loss" or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f'losses.{name}: must be a valid identifier, not "loss" and not a method of nn.ModuleDict; rename it'
            )
        if loss.requires_classes and task.head_kind not in ("categorical", "binary"):
            raise ValueError(
                f"losses.{name}: {loss_class} compares classes, but the heads of {task_class} are of kind "
                f"{task.head_kind!r}; use LogitMSELoss"
            )
        if loss.compares_examples and task.predicts_positions:
            raise ValueError(
                f"losses.{name}: {loss_class} compares each class between examples, and the classes of {task_class} "
                "are positions, which differ from example to example; remove it (DISTLoss: set intra_weight to 0)"
            )
        if loss.requires and is_cached:
            raise ValueError(
                f"losses.{name}: compares {' and '.join(sorted(loss.requires))}, but teacher_cache keeps only logits; "
                "remove one of the two"
            )


def check_trainer(trainer: Trainer) -> None:
    """Check settings of the trainer that Lightning accepts, but that make no sense.

    Warn if ``max_epochs`` is 0.

    Raises:
        ValueError: If a setting is out of range.
    """
    clip_val = trainer.gradient_clip_val
    if clip_val is not None and not clip_val >= 0:
        raise ValueError(f"trainer.gradient_clip_val: must be >= 0, got {clip_val}; null turns clipping off")
    if trainer.accumulate_grad_batches < 1:
        raise ValueError(f"trainer.accumulate_grad_batches: must be >= 1, got {trainer.accumulate_grad_batches}")
    if trainer.max_epochs == 0:
        rank_zero_warn("trainer.max_epochs: 0, so nothing is trained; set it to at least 1")


def check_num_classes(losses: Losses, task: Task, label_names: list[str]) -> None:
    """Call ``check_num_classes`` of each loss that compares classes, if the task has a fixed number of them.

    Raises:
        ValueError: If there is only one class, or a loss needs more than there are.
    """
    if task.head_kind == "binary":
        num_classes = 2
    elif task.head_kind == "categorical" and task.named_labels:
        num_classes = len(label_names)
    else:
        return
    if num_classes < 2:
        raise ValueError(f"label_names: only one class, {label_names[0]!r}, so there is nothing to learn; add another")
    for name, loss in losses.items():
        if (warning := loss.check_num_classes(num_classes, f"losses.{name}")) is not None:
            rank_zero_warn(warning)


def check_weights(losses: Losses, schedules: LossSchedules) -> None:
    """Check that a loss has a weight.

    Raises:
        ValueError: If all weights are 0 in the whole run.
    """
    if not any(loss.weight or "weight" in schedules.get(name, {}) for name, loss in losses.items()):
        raise ValueError(f"losses.{next(iter(losses))}.weight: 0, as of all losses, so nothing is learned; increase it")


def check_losses_have_teacher(losses: Losses, teacher: Teacher | None) -> None:
    """Check that losses that need a teacher have one; warn if no loss reads the teacher.

    Raises:
        ValueError: If a loss needs a teacher and there is none.
    """
    teacher_losses = [name for name, loss in losses.items() if loss.requires_teacher]
    if teacher_losses and teacher is None:
        raise ValueError(
            f"losses.{teacher_losses[0]}: needs a teacher, but there is none (a teacher passed as a module is not "
            "saved in checkpoints); set model.teacher, or remove this loss to fine-tune without a teacher"
        )
    if teacher is not None and not teacher_losses:
        rank_zero_warn("model.teacher: no loss reads the teacher, so it is not loaded; remove it or add a loss")


def check_lengths(datamodule: DataModuleInterface, student: nn.Module | None, teacher: Teacher | None) -> None:
    """Check that no example can have more tokens than a model has positions.

    Raises:
        ValueError: If the maximum number of tokens exceeds the positions of a model.
    """
    max_tokens = datamodule.max_tokens()
    if max_tokens is None:
        return
    limits = [("the student", get_config(student), max_tokens)]
    if teacher is not None:
        max_teacher_tokens = datamodule.max_teacher_tokens() or max_tokens
        limits += [(f"teacher {model.name!r}", model.config(), max_teacher_tokens) for model in teacher.models]
    for name, config, tokens in limits:
        positions = max_positions(config)
        if positions is not None and tokens > positions:
            with_prompt = "" if tokens <= datamodule.max_length else " (with the prompt)"
            raise ValueError(
                f"data.max_length: {tokens} tokens{with_prompt} exceed the {positions} positions of {name}; lower it"
            )


def check_vocab_sizes(student: nn.Module, teacher: Teacher) -> None:
    """Check that student and teacher have the same vocabulary size, which equal tokenizers do not guarantee.

    Published models often pad their embeddings to a multiple of 8 or 64.

    Raises:
        ValueError: If the sizes differ.
    """
    student_size = getattr(get_config(student), "vocab_size", None)
    for model in teacher.models:
        teacher_size = getattr(model.config(), "vocab_size", None)
        if None not in (student_size, teacher_size) and student_size != teacher_size:
            raise ValueError(
                f"student.vocab_size: the student has {student_size} tokens, teacher {model.name!r} has "
                f"{teacher_size}; build the student with vocab_size: {teacher_size}, or call "
                f"resize_token_embeddings({teacher_size}) on it and save it"
            )


def check_data(datamodule: DataModuleInterface, losses: Losses, teacher: Teacher | None) -> None:
    """Check that the data have what each loss needs, and that some loss learns from unlabeled examples, if any.

    Warn if no loss reads the augmented examples.

    Args:
        datamodule: The DataModule of the run.
        losses: The losses by name.
        teacher: The teacher whose outputs a loss reads, if any.

    Raises:
        ValueError: If the data lack something that a loss needs, or no loss learns from unlabeled examples.
    """
    requires_augmented = any(loss.requires_augmented for loss in losses.values())
    if datamodule.allow_unlabeled and teacher is None and not requires_augmented:
        raise ValueError(
            "data.allow_unlabeled: no loss learns from unlabeled examples; add a teacher and a loss such as "
            "SoftTargetLoss, add ConsistencyLoss, or set it to false"
        )
    for name, loss in losses.items():
        loss.check_data(datamodule, f"losses.{name}")
    if datamodule.augmentation is not None and not requires_augmented:
        rank_zero_warn("data.augmentation: no loss reads augmented examples; add ConsistencyLoss or remove it")


def check_sparse_gradients(trainer: Trainer, is_sharded: bool) -> None:
    """Check that the strategy supports the sparse gradients of LazyAdamW.

    Args:
        trainer: The trainer.
        is_sharded: True if the strategy shards the embeddings.

    Raises:
        ValueError: If the embeddings are sharded, or gradients are reduced across GPUs.
    """
    if is_sharded:
        raise ValueError("optimizer: LazyAdamW needs whole embeddings, and the strategy shards them; use AdamW")
    if trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu":
        raise ValueError(
            "optimizer: GPUs reduce no sparse gradients, which LazyAdamW needs; use AdamW, or trainer.devices=1"
        )


def check_callbacks(trainer: Trainer, student: nn.Module, is_sharded: bool) -> None:
    """Check that no callback needs whole weights that the strategy shards, or averages integer buffers.

    Averaging rounds the position ids of transformers models: with a decay of 0.9999, 99 of BERT's 512 change within 20
    steps.

    Args:
        trainer: The trainer.
        student: The student.
        is_sharded: True if the strategy shards the weights.

    Raises:
        ValueError: If a callback averages or prunes sharded weights, or averages buffers, which is the default, and the
            student has an integer buffer.
    """
    integer_buffer = next((name for name, buffer in student.named_buffers() if not buffer.is_floating_point()), None)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if is_sharded and isinstance(callback, (WeightAveraging, ModelPruning)):
            raise ValueError(
                f"trainer.callbacks: {name} needs whole weights, and trainer.strategy "
                f"{type(trainer.strategy).__name__} shards them; remove it, or use ddp"
            )
        # private: WeightAveraging has no public attribute for it (Lightning 2.6)
        if integer_buffer is not None and isinstance(callback, WeightAveraging) and callback._use_buffers:
            raise ValueError(
                f"trainer.callbacks: {name} averages buffers and would round the integers in "
                f"student.{integer_buffer}; set its use_buffers: false"
            )


def setup_losses(losses: Losses, student: nn.Module, teacher: Teacher | None) -> None:
    """Call ``setup`` of each loss that compares layers, with the dimensions of both models.

    Raises:
        ValueError: If the dimensions do not fit or are unknown, or if the teacher is an ensemble.
    """
    for name, loss in losses.items():
        if not loss.requires or teacher is None:
            continue
        if len(teacher.models) > 1:
            raise ValueError(
                f"losses.{name}: compares layers, but the teacher is an ensemble of {len(teacher.models)} models; use "
                "one teacher, or use losses on logits"
            )
        teacher_model = teacher.load()[0]
        student_dims, teacher_dims = model_dims(student), model_dims(teacher_model)
        if student_dims is None or teacher_dims is None:
            raise ValueError(
                f"losses.{name}: compares layers, but a model has no transformers configuration with its dimensions; "
                "use losses on logits"
            )
        if "qkv" in loss.requires:
            qkv_layers(student)
            qkv_layers(teacher_model)
        loss.setup(student_dims, teacher_dims)


def nonfinite_loss_error(terms: Mapping[str, Tensor], step: str, row_ids: object) -> FloatingPointError:
    """Build the error for a loss that is NaN or infinite.

    Args:
        terms: The losses by name; the error names the first that is not finite.
        step: Epoch and step, as text.
        row_ids: Row ids of the batch, or a description of the batch.
    """
    name, value = next(((n, t.item()) for n, t in terms.items() if not torch.isfinite(t)), ("loss", float("inf")))
    return FloatingPointError(
        f"train/{name} is {value} in {step}, for the examples {row_ids}; lower the learning rate, clip gradients "
        "(trainer.gradient_clip_val) or inspect these examples"
    )
