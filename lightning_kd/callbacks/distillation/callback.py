"""Distill a teacher into a model inside any LightningModule."""

from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_kd.callbacks.base import find_callbacks
from lightning_kd.callbacks.distillation.checks import check_run
from lightning_kd.callbacks.distillation.losses import LossTerms, check_losses
from lightning_kd.callbacks.distillation.optimizer import add_parameters
from lightning_kd.callbacks.distillation.outputs import Key, Layer, find_submodule
from lightning_kd.callbacks.distillation.step import StepPatch
from lightning_kd.callbacks.distillation.teacher import (
    CallReplay,
    build_teacher,
    infer_auto_class,
    passed_modules,
    restored_training_state,
)
from lightning_kd.callbacks.distillation.token_alignment import is_sequence_to_sequence
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import Model
from lightning_kd.optim.schedules import require_total_steps
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training.accumulation import is_accumulating
from lightning_kd.training.loss_schedules import Schedule, resolve_schedules


class DistillationCallback(Callback):
    """Distills a teacher into a model inside any LightningModule, without changes to its code.

    The callback records the calls of the student during ``training_step``, calls the teacher with the same arguments,
    and adds the weighted losses to the loss that the step returned. The module keeps its loss and logging. The callback
    logs ``distillation/<loss name>`` (unweighted), ``distillation/task_loss`` and ``distillation/loss``.

    Parameters of losses (projections) join the parameter group of the module's optimizer with the highest learning
    rate, and are saved in the state of the callback. The teacher is frozen and not saved in checkpoints.

    Args:
        student: Path of the student in the module, such as ``net`` or ``model.encoder``; empty = the module itself,
            whose step calls ``self(batch)``.
        teacher: Hub id or folder; ``{pretrained: <Hub id or folder>, ...}`` with arguments of ``from_pretrained``; a
            list of these (an ensemble, logits averaged); ``{ensemble: [...], combine: ...}``; a ``.ckpt`` of the same
            LightningModule class, or such a module, whose submodule at the student's path is used; or any other module.
        losses: Losses to add, by name.
        logits: Key or index of the logits in the outputs of both models, or a list of these, one per head; null = the
            tensor itself, the first tensor of a tuple, or ``logits`` of a mapping.
        labels: Key or index of the labels in the batch, for losses that read them, or a list of these, one per head.
        call: Index of the call to distill if a step calls the student several times, 0 = first, -1 = last; null =
            the only call.
        layers: Pairs of layers for losses on hidden states: path in the student to path in the teacher. Each pair has
            a separate projection if the widths differ.
        auto_class: Name of the transformers class that loads a teacher from a Hub id or folder; null = inferred from
            the student's class.
        loss_schedules: Arguments of losses that change over the optimizer steps, by loss and argument, such as
            ``{"soft": {"temperature": Schedule(8, 1)}}``; they override the values given to the losses.

    Raises:
        ValueError: If there are no losses; before training, if module, strategy, student and teacher are incompatible;
            in the first step, if the step does not call the student as expected.
        FloatingPointError: If a loss is not finite.
    """

    def __init__(
        self,
        student: str,
        teacher: str | dict[str, Any] | list[str | dict[str, Any]] | Model,
        losses: dict[str, DistillationLoss],
        logits: int | str | list[int | str] | None = None,  # int first: on the command line, 1 is an index
        labels: int | str | list[int | str] | None = None,
        call: int | None = None,
        layers: dict[str, str] | None = None,
        auto_class: str | None = None,
        loss_schedules: dict[str, dict[str, Schedule]] | None = None,
    ) -> None:
        check_losses(losses, bool(layers), labels is not None)
        self.student = student
        self.teacher = teacher
        self.losses = losses
        self.loss_schedules = resolve_schedules(loss_schedules, losses, "DistillationCallback.loss_schedules")
        self.logits = logits
        self.labels = labels
        self.call = call
        self.layers = layers or {}
        self.auto_class = auto_class
        self._terms: LossTerms | None = None
        self._restored_state: dict[str, Any] = {}
        self._resumed = False
        self._cleanup = ExitStack()  # undoes what a fit changes in the module and the teacher

    @property
    def state_key(self) -> str:
        """Key of the callback's state in checkpoints, one per student."""
        return self._generate_state_key(student=self.student)

    # ---- before the first step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise if the module or the strategy is not supported.

        Raises:
            ValueError: If it is not.
        """
        if stage != "fit":
            return
        self._terms, self._restored_state, self._resumed = None, {}, False  # from an earlier fit
        check_run(trainer, pl_module, self.student, self.labels is not None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the teacher, add the losses' parameters to the optimizer, and replace ``training_step``.

        Raises:
            ValueError: If there is no such student, or student and teacher are incompatible.
        """
        student = find_submodule(pl_module, self.student, f"student: {type(pl_module).__name__}")
        dtype = next((p.dtype for p in student.parameters() if p.is_floating_point()), torch.get_default_dtype())
        logits = None if all(loss.requires for loss in self.losses.values()) else _as_key_list(self.logits)
        replay = CallReplay(self.auto_class or infer_auto_class(student), logits)
        with torch.random.fork_rng(devices=[]):  # do not advance the module's random state
            teacher = build_teacher(self.teacher, replay, pl_module, self.student)
            self._cleanup.enter_context(restored_training_state(passed_modules(teacher)))
            teacher.to(pl_module.device, dtype)
            student_layers, replay.layers = self._pair_layers(student, teacher)
            self._terms = LossTerms(self.losses, self.loss_schedules, student_layers, replay.layers)
        if self._resumed and not self._restored_state and self._terms.parameters():
            raise ValueError(
                "DistillationCallback.losses: some have projections, but the checkpoint was saved without them; remove "
                "layers, or start a new run from the weights of the checkpoint"
            )
        self._terms.load_state_dict(trainer.strategy.broadcast(self._restored_state or self._terms.state_dict()))
        self._terms.to(pl_module.device, dtype)
        add_parameters(trainer, self._terms.parameters())
        has_several = len(find_callbacks(trainer, DistillationCallback)) > 1
        patch = StepPatch(
            pl_module,
            self.student,
            student_layers,
            logits,
            _as_key_list(self.labels),
            self.call,
            teacher,
            self._terms,
            log_prefix=f"distillation/{self.student}" if has_several else "distillation",
            student_called=bool(self._restored_state),
        )
        patch.install()
        self._cleanup.callback(patch.remove)

    def _pair_layers(self, student: nn.Module, teacher: Teacher) -> tuple[list[Layer], list[Layer]]:
        """Load the teacher and look up the layers to compare in both models."""
        loaded = teacher.load()
        if self.layers and len(loaded) > 1:
            raise ValueError("DistillationCallback.layers: not supported for an ensemble; set a single teacher")
        if self.layers and is_sequence_to_sequence(student):
            raise ValueError(
                f"DistillationCallback.layers: not supported for {type(student).__name__}, whose encoder and decoder "
                "have different padding; compare logits"
            )
        student_layers = [Layer.find(student, path, "student") for path in self.layers]
        return student_layers, [Layer.find(loaded[0], path, "teacher") for path in self.layers.values()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the total number of steps for loss schedules; in earlier hooks, Lightning would build the dataloader."""
        if self._terms is not None and self.loss_schedules:
            self._terms.total_steps = require_total_steps(
                trainer.estimated_stepping_batches, "DistillationCallback.loss_schedules:", "remove loss_schedules"
            )

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average the gradients of the losses' parameters across devices, because DDP does not wrap them.

        This happens before gradients are unscaled, so that all devices see the same overflow and skip the same steps.
        """
        if self._terms is None or trainer.world_size == 1 or is_accumulating(trainer):
            return
        for parameter in self._terms.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = trainer.strategy.reduce(gradient, reduce_op="mean")

    # ---- after the last step

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore ``training_step`` and the teacher."""
        self._cleanup.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore ``training_step`` and the teacher."""
        self._cleanup.close()

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters of the losses and a signature of losses and layers."""
        return self._restored_state if self._terms is None else self._terms.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the losses are built."""
        self._restored_state = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record that a run is resumed, with or without this callback in the checkpoint.

        Checkpoints of step 0 do not count: the learning rate finder restores one.
        """
        self._resumed = checkpoint["global_step"] > 0


def _as_key_list(keys: Any) -> list[Key]:
    return [] if keys is None else list(keys) if isinstance(keys, (list, tuple)) else [keys]
