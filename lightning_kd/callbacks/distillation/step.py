"""A training step around somebody else's, which adds a teacher to it."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_kd.callbacks.distillation.call_recorder import Call, recorded_calls
from lightning_kd.callbacks.distillation.kept_values import tensors_in
from lightning_kd.callbacks.distillation.losses import AddedTerms
from lightning_kd.callbacks.distillation.outputs import Key, Layer, labels_of, outputs_of
from lightning_kd.callbacks.distillation.teacher import AsCalled
from lightning_kd.callbacks.distillation.token_alignment import settled
from lightning_kd.outputs import Batch, Outputs
from lightning_kd.teachers.teacher import Teacher


class DistilledStep:
    """Runs the module's own step, lets the teacher repeat the student's call, and adds the losses.

    Args:
        trainer: The trainer that fits.
        module: The module.
        name: The student's name in it.
        layers: The layers of the student that are compared.
        teacher: The teacher; its task is an ``AsCalled``.
        terms: The losses.
        labels: Where the labels are in the batch.
        call: Which call counts; None = the only one.

    Attributes:
        total_steps: Optimiser steps of the run, for what changes over it; 0 = nothing does.
        prefix: Of the names of what is logged.
        called: Whether a step has called the student; from then on one that does not is left as it is.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        name: str,
        layers: list[Layer],
        teacher: Teacher,
        terms: AddedTerms,
        labels: list[Key],
        call: int | None,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.name = name
        self.student = module.get_submodule(name)
        self.layers = layers
        self.teacher = teacher
        self.terms = terms
        self.labels = labels
        self.call = call
        self.total_steps = 0.0
        self.prefix = "distillation"
        self.called = False
        self._warned = False
        self._active = False
        self.own_step = module.training_step
        self._before = module.__dict__.get("training_step")

    def install(self) -> None:
        """Stand in for the module's ``training_step``, under whose name strategies look it up."""

        @functools.wraps(self.own_step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if not self._active or not self.trainer.training:  # some validate with their training step
                return self.own_step(*args, **kwargs)
            return self.run(*args, **kwargs)

        training_step.distilled = self  # type: ignore[attr-defined]
        self._active = True
        self.module.training_step = training_step  # type: ignore[method-assign]

    def remove(self) -> None:
        """Give the module its own step back, or, where others stand in for it too, do nothing from now on."""
        self._active = False
        step = self.module.__dict__.get("training_step")
        while (ours := getattr(step, "distilled", None)) is not None and not ours._active:
            step = ours._before
        if step is None:
            self.module.__dict__.pop("training_step", None)
        else:
            self.module.training_step = step  # type: ignore[method-assign]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's step, with the losses added to what it returned.

        Raises:
            ValueError: If the student is not called as it should be.
            FloatingPointError: If a loss is not finite.
        """
        with recorded_calls(self.student, [layer.path for layer in self.layers]) as calls:
            result = self.own_step(*args, **kwargs)
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if not isinstance(loss, Tensor):  # a step that is skipped, or what Lightning refuses
            return result
        if not calls and self.called:  # such as that of another task
            return result
        call = self._chosen(calls)
        self.called = True
        batch = args[0] if args else next(iter(kwargs.values()))
        keys = cast(AsCalled, self.teacher.task).keys
        call, labels = settled(call, self.student, labels_of(batch, self.labels))
        student = outputs_of(call, "student", keys, labels, self.layers)
        self._check_gradient(student)
        self.terms.check_heads(student)
        now = self.terms.anneal(self.trainer.global_step / self.total_steps) if self.total_steps else {}
        teacher = self._ask({"call": call, "labels": labels}) if self.terms.need_teacher else None
        total = loss + self._added(loss, student, teacher, now, self._batch_size(call))
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _ask(self, batch: Batch) -> Outputs:
        """The teacher, which may draw random numbers, but not those of the module."""
        device = self.module.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return self.teacher(batch)

    def _batch_size(self, call: Call) -> int | None:
        """For logging; None = Lightning sees it in the batch, which is not so where the step fetches batches itself."""
        if "dataloader_iter" not in inspect.signature(self.own_step).parameters:
            return None
        return next((len(tensor) for tensor in tensors_in((call.args, call.kwargs)) if tensor.ndim), 1)

    def _chosen(self, calls: list[Call]) -> Call:
        if not calls:
            raise ValueError(
                f"DistillationCallback.student: training_step does not call {self.name!r}, or calls its forward or a "
                "part of it, which is not seen; name the network that it calls as a function"
            )
        times = f"training_step calls {self.name!r} {len(calls)} times"
        if self.call is None and len(calls) > 1:
            raise ValueError(
                f"DistillationCallback.call: {times}; say which call counts, call=0 for the first, call=-1 for the last"
            )
        index = self.call or 0
        if not -len(calls) <= index < len(calls):
            raise ValueError(f"DistillationCallback.call: {index}, but {times}")
        return calls[index]

    def _check_gradient(self, student: Outputs) -> None:
        logits = [head.logits for head in student.heads.values()]
        if not any(tensor.requires_grad for tensor in [*logits, *(student.hidden_states or ())]) and not any(
            parameter.requires_grad for parameter in self.student.parameters()
        ):
            if not self._warned:
                rank_zero_warn(
                    f"DistillationCallback.student: all weights of {self.name!r} are frozen, so it learns nothing from "
                    "the teacher; name the network that is trained"
                )
            self._warned = True
            return
        if not all(tensor.requires_grad for tensor in logits):
            raise ValueError(
                "DistillationCallback.call: the call that counts was made without gradients, so nothing would be "
                "learnt from the teacher; say which other call counts"
            )
        for layer, states in zip(self.layers, student.hidden_states or (), strict=True):
            if not states.requires_grad:
                raise ValueError(
                    f"DistillationCallback.layers: {layer.path!r} gave an output without gradients, so nothing would "
                    "be learnt there; where activations are recomputed, use use_reentrant=False; where all weights up "
                    "to it are frozen, leave it out; else say which other call counts"
                )

    def _added(
        self,
        own_loss: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        now: dict[str, float],
        batch_size: int | None,
    ) -> Tensor:
        """The weighted sum of the losses, which are logged with what changes over the run."""
        terms = self.terms(student, teacher)
        added = sum((self.terms.weight(name) * term for name, term in terms.items()), torch.zeros_like(own_loss))
        if not torch.isfinite(added):
            name = next((name for name, term in terms.items() if not torch.isfinite(term)), "total")
            raise FloatingPointError(
                f"{self.prefix}/{name} is {terms.get(name, added).item()} in epoch {self.trainer.current_epoch}, step "
                f"{self.trainer.global_step}; lower the learning rate, clip gradients (trainer.gradient_clip_val) or "
                "look at what the teacher makes of this batch"
            )
        logged = {**terms, "own_loss": own_loss, "total": own_loss + added}
        values: dict[str, Any] = {**{name: value.detach() for name, value in logged.items()}, **now}
        for name, value in values.items():  # Lightning's own: modules change what log and log_dict take
            LightningModule.log(self.module, f"{self.prefix}/{name}", value, batch_size=batch_size)
        return added
