"""What is checked before the first step, because a run would otherwise finish and mean nothing."""

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

IgnorableCheck = Literal["tokenizer_mismatch", "label_mismatch", "weak_teacher"]
"""What a user may accept knowingly."""


def check_losses_have_teacher(losses: nn.ModuleDict, teacher: Teacher | None) -> None:
    """Refuse a loss that reads a teacher where there is none.

    Raises:
        ValueError: Names the loss.
    """
    teacher_losses = [name for name, loss in losses.items() if loss.requires_teacher]
    if teacher_losses and teacher is None:
        raise ValueError(
            f"losses.{teacher_losses[0]}: needs a teacher and there is none (a module given as teacher is not saved in "
            "checkpoints); set model.teacher, or remove this loss to fine-tune plainly"
        )
    if teacher is not None and not teacher_losses:
        rank_zero_warn("a teacher is given but no loss reads it, so it is not loaded; remove it or add a loss")


def check_lengths(datamodule: DataModuleInterface, student: nn.Module | None, teacher: Teacher | None) -> None:
    """Refuse rows that may be longer than a network has positions.

    Raises:
        ValueError: Names the network and its positions.
    """
    max_tokens = datamodule.max_tokens()
    if max_tokens is None:
        return
    readers = [("the student", get_config(student), max_tokens)]
    if teacher is not None:
        max_teacher_tokens = datamodule.max_teacher_tokens() if datamodule.teacher_tokenizers else None
        readers += [
            (f"teacher {model.name!r}", model.config(), max_teacher_tokens or max_tokens) for model in teacher.models
        ]
    for name, config, tokens in readers:
        positions = max_positions(config)
        if positions is not None and tokens > positions:
            prompt = "" if tokens <= datamodule.max_length else ", with the prompt,"
            raise ValueError(
                f"data.max_length: {tokens}{prompt} is more than the {positions} positions of {name}; lower it"
            )


def check_vocab_sizes(student: nn.Module, teacher: Teacher) -> None:
    """Refuse networks whose heads have another number of tokens, though their tokenizers may agree.

    Published embeddings are often longer than the tokenizer, padded to a multiple of 8 or 64.

    Raises:
        ValueError: Names the sizes and how to make them the same.
    """
    student_size = getattr(get_config(student), "vocab_size", None)
    for model in teacher.models:
        teacher_size = getattr(model.config(), "vocab_size", None)
        if None not in (student_size, teacher_size) and student_size != teacher_size:
            raise ValueError(
                f"student.vocab_size: the student's head has {student_size} tokens, that of teacher {model.name!r} "
                f"{teacher_size}; "
                f"build the student with vocab_size: {teacher_size}, or call resize_token_embeddings({teacher_size}) "
                f"on it and save"
            )


def check_cacheable_losses(losses: Mapping[str, DistillationLoss]) -> None:
    """Refuse losses that compare layers where only logits are kept.

    Raises:
        ValueError: Names the loss and what to do.
    """
    for name, loss in losses.items():
        if loss.requires:
            raise ValueError(
                f"losses.{name}: compares {' and '.join(sorted(loss.requires))}, and teacher_cache keeps logits only; "
                "remove one of the two"
            )


def check_losses_between_examples(losses: Mapping[str, DistillationLoss], task: Task) -> None:
    """Refuse losses that compare a class between rows where classes are positions.

    Raises:
        ValueError: Names the loss and what to do.
    """
    for name, loss in losses.items():
        if loss.compares_examples and task.predicts_positions:
            raise ValueError(
                f"losses.{name}: {type(loss).__name__} compares what rows have in one class, and the classes of "
                f"{type(task).__name__} are positions, which have nothing in common; leave it "
                "out (DISTLoss: set intra_weight to 0)"
            )


def check_augmentation(datamodule: DataModuleInterface, losses: nn.ModuleDict) -> None:
    """Refuse a loss on other wordings of the rows where there are none; warn where nobody reads them.

    Raises:
        ValueError: Names the loss and what to do.
    """
    consistency_losses = [name for name, loss in losses.items() if loss.requires_augmented]
    has_augmentation = datamodule.augmentation is not None
    if consistency_losses and not has_augmentation:
        raise ValueError(
            f"losses.{consistency_losses[0]}: compares with other wordings of the rows, and the data make none; set "
            "data.augmentation, for instance to TfIdfReplacement"
        )
    for name in consistency_losses:
        if not getattr(losses[name], "include_labeled", True) and not datamodule.allow_unlabeled:
            raise ValueError(
                f"losses.{name}: counts rows without a label, and the data have none; set data.allow_unlabeled, or "
                "include_labeled: true to count all"
            )
    if has_augmentation and not consistency_losses:
        rank_zero_warn(
            "data.augmentation: no loss reads other wordings of the rows; add ConsistencyLoss or leave it out"
        )


def check_sparse_gradients(trainer: Trainer, is_sharded: bool) -> None:
    """Refuse LazyAdamW where sparse gradients cannot be had.

    Args:
        trainer: Says on which devices.
        is_sharded: Whether the strategy divides the embeddings.

    Raises:
        ValueError: Names the reason and what to use.
    """
    if is_sharded:
        raise ValueError("optimizer: LazyAdamW needs whole embeddings, and the strategy divides them; use AdamW")
    if trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu":
        raise ValueError("optimizer: LazyAdamW has sparse gradients, which several GPUs cannot add up; use AdamW")


def check_weight_averaging(trainer: Trainer, student: nn.Module) -> None:
    """Refuse to average whole numbers: transformers keep positions in buffers, and rounding would change them.

    With a decay of 0.9999, 99 of BERT's 512 position ids are another after 20 steps.

    Raises:
        ValueError: If a callback averages buffers, as it does by default, and the student has such a one.
    """
    name = next((name for name, buffer in student.named_buffers() if not buffer.is_floating_point()), None)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._use_buffers and name is not None:
            raise ValueError(
                f"trainer.callbacks: {type(callback).__name__} averages buffers, too, and would change the whole "
                f"numbers in student.{name} by rounding; give it use_buffers: false"
            )


def check_sharding(trainer: Trainer) -> None:
    """Refuse callbacks that need whole weights where each process holds a part of them.

    Raises:
        ValueError: Names the callback.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, (WeightAveraging, ModelPruning)):
            raise ValueError(
                f"trainer.callbacks: {type(callback).__name__} needs whole weights, and trainer.strategy "
                f"{type(trainer.strategy).__name__} divides them among the devices; leave it out, or use ddp"
            )


def setup_losses(losses: nn.ModuleDict, student: nn.Module, teacher: Teacher | None) -> None:
    """Let losses on hidden states or projections check the sizes of the networks.

    Raises:
        ValueError: If they do not fit, a network does not say its sizes, or the teacher is an ensemble.
    """
    for name, loss in losses.items():
        assert isinstance(loss, DistillationLoss)
        if not loss.requires or teacher is None:
            continue
        if len(teacher.models) > 1:
            raise ValueError(
                f"losses.{name}: compares layers, and an ensemble has those of {len(teacher.models)} networks; give "
                "one teacher, or losses on logits"
            )
        student_dims, teacher_dims = model_dims(student), model_dims(teacher.load()[0])
        if student_dims is None or teacher_dims is None:
            raise ValueError(
                f"losses.{name}: compares layers, and a network without a transformers configuration does not say its "
                "sizes; use losses on logits"
            )
        if "qkv" in loss.requires:
            qkv_layers(student)
            qkv_layers(teacher.load()[0])
        loss.setup(student_dims, teacher_dims)


def nonfinite_loss_error(terms: Mapping[str, Tensor], when: str, rows: object) -> FloatingPointError:
    """The error for a loss that is NaN or infinite; names the first such term and the batch's rows."""
    name, value = next(((n, t.item()) for n, t in terms.items() if not torch.isfinite(t)), ("loss", float("inf")))
    return FloatingPointError(
        f"train/{name} is {value} in {when}, for the rows {rows}; lower the learning rate, clip gradients "
        "(trainer.gradient_clip_val) or look at these rows"
    )
