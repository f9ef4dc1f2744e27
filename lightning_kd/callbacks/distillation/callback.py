"""Adds a teacher to a LightningModule that knows nothing of one."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_kd.callbacks.distillation.checked_losses import check_losses
from lightning_kd.callbacks.distillation.checks import check_callbacks, check_run
from lightning_kd.callbacks.distillation.given_teacher import Borrowed, networks_in, parts_of, resolved
from lightning_kd.callbacks.distillation.losses import AddedTerms
from lightning_kd.callbacks.distillation.optimizer import join
from lightning_kd.callbacks.distillation.outputs import Key, Layer, width_of
from lightning_kd.callbacks.distillation.step import DistilledStep
from lightning_kd.callbacks.distillation.teacher import AsCalled, teacher_for
from lightning_kd.callbacks.distillation.token_alignment import is_sequence_to_sequence
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models.loading import Network
from lightning_kd.optim.schedules import known_end
from lightning_kd.teachers.teacher import Teacher


class DistillationCallback(Callback):
    """Teaches a network inside any LightningModule, whose code stays as it is.

    While ``training_step`` runs, the calls of the network are recorded. Then the teacher is called in the same way,
    and the weighted losses are added to what the step returned. The module's own loss and logging stay. Logged are
    ``distillation/<loss name>`` (not weighted), ``distillation/own_loss`` and ``distillation/total``.

    Parameters of losses (projections) are trained by the module's optimiser, in its group with the highest learning
    rate, and saved in the state of this callback. The teacher is frozen and in no checkpoint.

    Args:
        student: Name of the network in the module, such as ``net`` or ``model.encoder``; empty = the module itself,
            whose step calls ``self(batch)``.
        teacher: Hub id or folder; or ``{source: <hub id or folder>, ...}``, with arguments of ``from_pretrained``; a
            list of these (an ensemble, logits averaged); ``{ensemble: [...], combine: ...}``; a ``.ckpt`` of the same
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

    Raises:
        ValueError: If there are no losses; before training, if module, strategy, student and teacher do not go
            together; in the first step, if the network is not called as it should.
        FloatingPointError: If a term is not finite; names it.
    """

    def __init__(
        self,
        student: str,
        teacher: str | dict[str, Any] | list[str | dict[str, Any]] | Network,
        losses: dict[str, DistillationLoss],
        logits: int | str | list[int | str] | None = None,  # from the shell, 1 is a number
        labels: int | str | list[int | str] | None = None,
        call: int | None = None,
        layers: dict[str, str] | None = None,
        auto_class: str | None = None,
    ) -> None:
        check_losses(losses, bool(layers), labels is not None)
        self.student = student
        self.teacher = teacher
        self.losses = losses
        self.logits = logits
        self.labels = labels
        self.call = call
        self.layers = layers or {}
        self.auto_class = auto_class
        self._step: DistilledStep | None = None
        self._terms: AddedTerms | None = None
        self._saved: dict[str, Any] = {}
        self._resumed = False
        self._borrowed: Borrowed | None = None

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
        self._terms, self._saved, self._resumed = None, {}, False  # of an earlier fit
        check_run(trainer, pl_module, self.student, self.labels is not None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the teacher, let the losses' parameters join the optimiser, and stand in for ``training_step``.

        Raises:
            ValueError: If the module has no such network, or student and teacher do not go together.
        """
        student = self._network(pl_module)
        dtype = next((p.dtype for p in student.parameters() if p.is_floating_point()), torch.get_default_dtype())
        with torch.random.fork_rng(devices=[]):  # the module draws the same numbers as without a teacher
            teacher = self._build_teacher(pl_module, student)
            teacher.to(pl_module.device, dtype)
            _ = teacher.networks  # loaded now: what is wrong with it shows before the first step
            ours, theirs = self._pairs(student, teacher)
            self._terms = AddedTerms(self.losses, ours, theirs)
        self._check_parameters(trainer)
        self._terms.load(trainer.strategy.broadcast(self._saved or self._terms.state()))
        self._terms.to(pl_module.device, dtype)
        join(trainer.optimizers[0], self._terms.parameters())
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        several = sum(isinstance(callback, DistillationCallback) for callback in callbacks) > 1
        self._step = DistilledStep(
            trainer, pl_module, self.student, ours, teacher, self._terms, _keys(self.labels), self.call
        )
        self._step.prefix = f"distillation/{self.student}" if several else "distillation"
        self._step.called = bool(self._saved)  # by the run that is continued
        self._step.install()

    def _check_parameters(self, trainer: Trainer) -> None:
        """Refuse runs whose optimiser the losses' parameters cannot join."""
        if not cast(AddedTerms, self._terms).parameters():
            return
        if self._resumed and not self._saved:
            raise ValueError(
                "DistillationCallback.losses: have projections, and the checkpoint is of a run without them, whose "
                "optimiser cannot be continued; leave layers out, or begin a new run with the weights of the checkpoint"
            )
        check_callbacks(trainer)

    def _network(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.student)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"DistillationCallback.student: {type(pl_module).__name__} has no network {self.student!r}; it has "
                f"{names}"
            ) from None

    def _build_teacher(self, pl_module: LightningModule, student: nn.Module) -> Teacher:
        given = resolved(self.teacher, pl_module, self.student)
        networks = list(networks_in(given))
        self._borrowed = Borrowed(networks)
        keys = None if all(loss.needs for loss in self.losses.values()) else _keys(self.logits)
        return teacher_for(student, given, len(networks) == len(parts_of(given)), self.auto_class, keys)

    def _pairs(self, student: nn.Module, teacher: Teacher) -> tuple[list[Layer], list[Layer]]:
        """The layers of both that are compared; the teacher is told to record its own."""
        if self.layers and len(teacher.networks) > 1:
            raise ValueError(
                "DistillationCallback.layers: compares layers, and an ensemble has those of several networks; give one "
                "teacher"
            )
        if self.layers and is_sequence_to_sequence(student):
            raise ValueError(
                f"DistillationCallback.layers: {type(student).__name__} has two kinds of padding, the encoder's and "
                "the decoder's, and it is not known which is a layer's; compare logits"
            )
        ours = [Layer(path, width_of(student, path, "student")) for path in self.layers]
        theirs = [Layer(path, width_of(teacher.networks[0], path, "teacher")) for path in self.layers.values()]
        cast(AsCalled, teacher.task).layers = theirs
        return ours, theirs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of the run, where a loss changes over them; earlier Lightning would set up the loader."""
        if self._step is not None and self._step.terms.scheduled:
            steps = trainer.estimated_stepping_batches
            self._step.total_steps = known_end(steps, "DistillationCallback.losses: a schedule", "give a number")

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
        if self._step is not None:
            self._step.remove()
            self._step = None
        if self._borrowed is not None:
            self._borrowed.give_back()
            self._borrowed = None

    def state_dict(self) -> dict[str, Any]:
        """The parameters of the losses, and what they are of."""
        return self._saved if self._terms is None else self._terms.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the losses are built."""
        self._saved = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take note that a run is continued, with this callback or without it.

        One without a step is that of a learning rate finder, which goes back to the beginning.
        """
        self._resumed = checkpoint["global_step"] > 0


def _keys(given: Any) -> list[Key]:
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
