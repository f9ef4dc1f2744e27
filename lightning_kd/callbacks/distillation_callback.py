"""Adds a teacher to a LightningModule that knows nothing of one."""

import os
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_kd.callbacks.added_terms import AddedTerms, check_loss
from lightning_kd.callbacks.call_outputs import Key, Layer, width_of
from lightning_kd.callbacks.distilled_step import DistilledStep
from lightning_kd.callbacks.joined_parameters import join
from lightning_kd.callbacks.read_positions import is_sequence_to_sequence
from lightning_kd.callbacks.repeating_teacher import AsCalled, network_in_checkpoint, teacher_for
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import Network
from lightning_kd.module import DistillationModule
from lightning_kd.optimizers import known_end
from lightning_kd.teachers import Teacher


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
        logits: str | int | list[str | int] | None = None,
        labels: str | int | list[str | int] | None = None,
        call: int | None = None,
        layers: dict[str, str] | None = None,
        auto_class: str | None = None,
    ) -> None:
        if not losses:
            raise ValueError("DistillationCallback.losses: empty; give at least one, such as SoftTargetLoss")
        for name, loss in losses.items():
            check_loss(name, loss, bool(layers), labels is not None)
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

    # ---- before the first step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules and strategies that this cannot work with.

        Raises:
            ValueError: Names the reason.
        """
        if stage != "fit":
            return
        self._terms, self._saved = None, {}  # of an earlier fit
        if isinstance(pl_module, DistillationModule):
            raise ValueError("DistillationCallback: a DistillationModule has a teacher of its own; set model.teacher")
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"DistillationCallback: {type(pl_module).__name__} optimises manually, so its step goes backward "
                "itself and nothing can be added to the loss; use the losses of lightning_kd.losses in the step"
            )
        if pl_module._compiler_ctx is not None:
            raise ValueError(
                "DistillationCallback: the whole module is compiled, and its calls cannot be seen; compile the network "
                f"inside instead: module.{self.student or 'net'}.compile()"
            )
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
            raise ValueError(
                f"DistillationCallback: {type(trainer.strategy).__name__} divides weights and optimiser, which the "
                "losses' parameters then cannot join; use ddp, or DistillationModule"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the teacher, let the losses' parameters join the optimiser, and stand in for ``training_step``.

        Raises:
            ValueError: If the module has no such network, or student and teacher do not go together.
        """
        student = self._network(pl_module)
        weights = next(pl_module.parameters())
        with torch.random.fork_rng(devices=[]):  # the module draws the same numbers as without a teacher
            teacher = self._build_teacher(pl_module, student)
            teacher.to(pl_module.device, weights.dtype)
            ours, theirs = self._pairs(student, teacher)
            self._terms = AddedTerms(self.losses, ours, theirs)
        self._terms.load(trainer.strategy.broadcast(self._saved or self._terms.state()))
        self._terms.to(pl_module.device, weights.dtype)
        join(trainer.optimizers[0], self._terms.parameters())
        self._step = DistilledStep(
            trainer, pl_module, self.student, ours, teacher, self._terms, _keys(self.labels), self.call
        )
        self._step.install()

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
        given = self.teacher if isinstance(self.teacher, list) else [self.teacher]
        sources = [self._source(os.fspath(s) if isinstance(s, os.PathLike) else s, pl_module) for s in given]
        own = {id(parameter) for parameter in pl_module.parameters()}
        for source in sources:
            if isinstance(source, nn.Module) and any(id(parameter) in own for parameter in source.parameters()):
                raise ValueError("DistillationCallback.teacher: has weights of the student; pass a copy.deepcopy of it")
        keys = None if all(loss.needs for loss in self.losses.values()) else _keys(self.logits)
        return teacher_for(student, sources if isinstance(self.teacher, list) else sources[0], self.auto_class, keys)

    def _source(self, source: Any, pl_module: LightningModule) -> Any:
        """What a teacher is made of; of a module of the same class the network of the same name."""
        if isinstance(source, str) and source.endswith(".ckpt"):
            return network_in_checkpoint(source, pl_module, self.student)
        return source.get_submodule(self.student) if type(source) is type(pl_module) else source

    def _pairs(self, student: nn.Module, teacher: Teacher) -> tuple[list[Layer], list[Layer]]:
        """The layers of both that are compared; the teacher is told to record its own."""
        if self.layers and len(teacher.networks) > 1:
            raise ValueError(
                "DistillationCallback.layers: compares layers, and an ensemble has those of several networks; give one "
                "teacher"
            )
        if self.layers and is_sequence_to_sequence(student):
            raise ValueError(
                f"DistillationCallback.layers: {type(student).__name__} has two kinds of padding, the encoder's and the "
                "decoder's, and it is not known which is a layer's; compare logits"
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

    def state_dict(self) -> dict[str, Any]:
        """The parameters of the losses."""
        return {"losses": self._saved if self._terms is None else self._terms.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the losses are built."""
        self._saved = state_dict["losses"]


def _keys(given: Any) -> list[Key]:
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
