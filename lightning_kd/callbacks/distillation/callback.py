"""Adds a teacher to a LightningModule that knows nothing of one."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_kd.callbacks.distillation.checks import check_callbacks, check_run
from lightning_kd.callbacks.distillation.losses import LossTerms, check_losses
from lightning_kd.callbacks.distillation.optimizer import add_parameters
from lightning_kd.callbacks.distillation.outputs import Key, Layer, layer_width
from lightning_kd.callbacks.distillation.step import StepPatch
from lightning_kd.callbacks.distillation.teacher import (
    CallReplayTask,
    RestoreTrainingState,
    build_teacher,
    list_members,
    loaded_models,
    resolve_teacher,
)
from lightning_kd.callbacks.distillation.token_alignment import is_sequence_to_sequence
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import Model
from lightning_kd.optim.schedules import require_total_steps
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training.loss_schedules import Schedule, resolve_schedules


class DistillationCallback(Callback):
    """Teaches a network inside any LightningModule, whose code stays as it is.

    While ``training_step`` runs, the calls of the network are recorded. Then the teacher is called in the same way,
    and the weighted losses are added to what the step returned. The module's own loss and logging stay. Logged are
    ``distillation/<loss name>`` (not weighted), ``distillation/task_loss`` and ``distillation/loss``.

    Parameters of losses (projections) are trained by the module's optimiser, in its group with the highest learning
    rate, and saved in the state of this callback. The teacher is frozen and in no checkpoint.

    Args:
        student: Name of the network in the module, such as ``net`` or ``model.encoder``; empty = the module itself,
            whose step calls ``self(batch)``.
        teacher: Hub id or folder; or ``{pretrained: <hub id or folder>, ...}``, with arguments of ``from_pretrained``;
            a list of these (an ensemble, logits averaged); ``{ensemble: [...], combine: ...}``; a ``.ckpt`` of the same
            LightningModule class, or such a module, of which the network of the same name is taken; or any other
            module.
        losses: The terms that are added, by name.
        logits: Key or index of the logits in what the networks return, or several of these, each then a head; null =
            the tensor, the first one in a tuple, ``logits`` in a mapping.
        labels: Key or index of the labels in the batch, for losses that read them, one for each head.
        call: Which call of the network in a step counts, 0 = the first, -1 = the last; null = there is one only.
        layers: Layers of the student and of the teacher, by path, which losses on hidden states compare, each pair
            with a projection of its own where the widths differ.
        auto_class: Name of the transformers class that loads a teacher from a hub id or folder; null = that of the
            student's.
        loss_schedules: Arguments of losses that change over the optimizer steps, by loss and argument, such as
            ``{"soft": {"temperature": Schedule(8, 1)}}``; they replace the numbers given to the losses.

    Raises:
        ValueError: If there are no losses; before training, if module, strategy, student and teacher do not go
            together; in the first step, if the network is not called as it should.
        FloatingPointError: If a term is not finite; names it.
    """

    def __init__(
        self,
        student: str,
        teacher: str | dict[str, Any] | list[str | dict[str, Any]] | Model,
        losses: dict[str, DistillationLoss],
        logits: int | str | list[int | str] | None = None,  # from the shell, 1 is a number
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
        self._step_patch: StepPatch | None = None
        self._terms: LossTerms | None = None
        self._restored_state: dict[str, Any] = {}
        self._resumed = False
        self._training_state: RestoreTrainingState | None = None

    @property
    def state_key(self) -> str:
        """Under which a checkpoint holds its state: one for each student."""
        return self._generate_state_key(student=self.student)

    # ---- before the first step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules and strategies that this cannot work with.

        Raises:
            ValueError: Names the reason.
        """
        if stage != "fit":
            return
        self._terms, self._restored_state, self._resumed = None, {}, False  # of an earlier fit
        check_run(trainer, pl_module, self.student, self.labels is not None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the teacher, let the losses' parameters join the optimiser, and stand in for ``training_step``.

        Raises:
            ValueError: If the module has no such network, or student and teacher do not go together.
        """
        student = self._find_student(pl_module)
        dtype = next((p.dtype for p in student.parameters() if p.is_floating_point()), torch.get_default_dtype())
        with torch.random.fork_rng(devices=[]):  # the module draws the same numbers as without a teacher
            teacher = self._build_teacher(pl_module, student)
            teacher.to(pl_module.device, dtype)
            teacher.load()  # loaded now: what is wrong with it shows before the first step
            student_layers, teacher_layers = self._pair_layers(student, teacher)
            self._terms = LossTerms(self.losses, self.loss_schedules, student_layers, teacher_layers)
        self._check_parameters(trainer)
        self._terms.load_state_dict(trainer.strategy.broadcast(self._restored_state or self._terms.state_dict()))
        self._terms.to(pl_module.device, dtype)
        add_parameters(trainer.optimizers[0], self._terms.parameters())
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        several = sum(isinstance(callback, DistillationCallback) for callback in callbacks) > 1
        self._step_patch = StepPatch(
            trainer, pl_module, self.student, student_layers, teacher, self._terms, _as_key_list(self.labels), self.call
        )
        self._step_patch.log_prefix = f"distillation/{self.student}" if several else "distillation"
        self._step_patch.student_called = bool(self._restored_state)  # by the run that is continued
        self._step_patch.install()

    def _check_parameters(self, trainer: Trainer) -> None:
        """Refuse runs whose optimiser the losses' parameters cannot join."""
        if not cast(LossTerms, self._terms).parameters():
            return
        if self._resumed and not self._restored_state:
            raise ValueError(
                "DistillationCallback.losses: have projections, and the checkpoint is of a run without them, whose "
                "optimiser cannot be continued; leave layers out, or begin a new run with the weights of the checkpoint"
            )
        check_callbacks(trainer)

    def _find_student(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.student)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"DistillationCallback.student: {type(pl_module).__name__} has no network {self.student!r}; it has "
                f"{names}"
            ) from None

    def _build_teacher(self, pl_module: LightningModule, student: nn.Module) -> Teacher:
        resolved = resolve_teacher(self.teacher, pl_module, self.student)
        models = list(loaded_models(resolved))
        self._training_state = RestoreTrainingState(models)
        keys = None if all(loss.requires for loss in self.losses.values()) else _as_key_list(self.logits)
        return build_teacher(student, resolved, len(models) == len(list_members(resolved)), self.auto_class, keys)

    def _pair_layers(self, student: nn.Module, teacher: Teacher) -> tuple[list[Layer], list[Layer]]:
        """The layers of both that are compared; the teacher is told to record its own."""
        if self.layers and len(teacher.models) > 1:
            raise ValueError(
                "DistillationCallback.layers: compares layers, and an ensemble has those of several networks; give one "
                "teacher"
            )
        if self.layers and is_sequence_to_sequence(student):
            raise ValueError(
                f"DistillationCallback.layers: {type(student).__name__} has two kinds of padding, the encoder's and "
                "the decoder's, and it is not known which is a layer's; compare logits"
            )
        student_layers = [Layer(path, layer_width(student, path, "student")) for path in self.layers]
        teacher_layers = [Layer(path, layer_width(teacher.load()[0], path, "teacher")) for path in self.layers.values()]
        cast(CallReplayTask, teacher.task).layers = teacher_layers
        return student_layers, teacher_layers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of the run, where a loss changes over them; earlier Lightning would set up the loader."""
        if self._step_patch is not None and self.loss_schedules:
            steps = trainer.estimated_stepping_batches
            self._step_patch.total_steps = require_total_steps(
                steps, "DistillationCallback.loss_schedules:", "leave loss_schedules out"
            )

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average the gradients of the losses' parameters over the devices: they are not in what DDP has wrapped.

        Before gradients are unscaled, so that every device sees the same overflow and skips the same steps.
        """
        if self._terms is None or trainer.world_size == 1 or trainer.fit_loop._should_accumulate():
            return
        for parameter in self._terms.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = trainer.strategy.reduce(gradient, reduce_op="mean")

    # ---- afterwards

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own step back, and let the teacher go."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the module its own step back, and let the teacher go."""
        self._release()

    def _release(self) -> None:
        if self._step_patch is not None:
            self._step_patch.remove()
            self._step_patch = None
        if self._training_state is not None:
            self._training_state.restore()
            self._training_state = None

    def state_dict(self) -> dict[str, Any]:
        """The parameters of the losses, and what they are of."""
        return self._restored_state if self._terms is None else self._terms.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the losses are built."""
        self._restored_state = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take note that a run is continued, with this callback or without it.

        One without a step is that of a learning rate finder, which goes back to the beginning.
        """
        self._resumed = checkpoint["global_step"] > 0


def _as_key_list(keys: Any) -> list[Key]:
    return [] if keys is None else list(keys) if isinstance(keys, (list, tuple)) else [keys]
