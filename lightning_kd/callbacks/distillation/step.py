"""A training step around somebody else's, which adds a teacher to it."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_kd.callbacks.distillation.call_recorder import Call, iter_tensors, record_calls
from lightning_kd.callbacks.distillation.losses import LossTerms
from lightning_kd.callbacks.distillation.outputs import Key, Layer, build_outputs, extract_labels
from lightning_kd.callbacks.distillation.teacher import CallReplayTask
from lightning_kd.callbacks.distillation.token_alignment import align_tokens_and_labels
from lightning_kd.outputs import Batch, Outputs
from lightning_kd.teachers.teacher import Teacher


class StepPatch:
    """Runs the module's own step, lets the teacher repeat the student's call, and adds the losses.

    Args:
        trainer: The trainer that fits.
        module: The module.
        name: The student's name in it.
        layers: The layers of the student that are compared.
        teacher: The teacher; its task is a ``CallReplayTask``.
        terms: The losses.
        labels: Where the labels are in the batch.
        call: Which call counts; None = the only one.

    Attributes:
        total_steps: Optimiser steps of the run, for what changes over it; 0 = nothing does.
        log_prefix: Of the names of what is logged.
        student_called: Whether a step has called the student; from then on one that does not is left as it is.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        name: str,
        layers: list[Layer],
        teacher: Teacher,
        terms: LossTerms,
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
        self.log_prefix = "distillation"
        self.student_called = False
        self._warned_frozen = False
        self._active = False
        self.original_step = module.training_step
        self._previous_step = module.__dict__.get("training_step")

    def install(self) -> None:
        """Stand in for the module's ``training_step``, under whose name strategies look it up."""

        @functools.wraps(self.original_step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if not self._active or not self.trainer.training:  # some validate with their training step
                return self.original_step(*args, **kwargs)
            return self.run(*args, **kwargs)

        training_step.step_patch = self  # type: ignore[attr-defined]
        self._active = True
        self.module.training_step = training_step  # type: ignore[method-assign]

    def remove(self) -> None:
        """Give the module its own step back, or, where others stand in for it too, do nothing from now on."""
        self._active = False
        step = self.module.__dict__.get("training_step")
        while (patch := getattr(step, "step_patch", None)) is not None and not patch._active:
            step = patch._previous_step
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
        with record_calls(self.student, [layer.path for layer in self.layers]) as calls:
            result = self.original_step(*args, **kwargs)
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if not isinstance(loss, Tensor):  # a step that is skipped, or what Lightning refuses
            return result
        if not calls and self.student_called:  # such as that of another task
            return result
        call = self._select_call(calls)
        self.student_called = True
        batch = args[0] if args else next(iter(kwargs.values()))
        keys = cast(CallReplayTask, self.teacher.task).keys
        call, labels = align_tokens_and_labels(call, self.student, extract_labels(batch, self.labels))
        student = build_outputs(call, "student", keys, labels, self.layers)
        self._check_gradient(student)
        self.terms.check_heads(student)
        scheduled_values = (
            self.terms.update_schedules(self.trainer.global_step / self.total_steps) if self.total_steps else {}
        )
        teacher = self._call_teacher({"call": call, "labels": labels}) if self.terms.needs_teacher else None
        total = loss + self._distillation_loss(loss, student, teacher, scheduled_values, self._batch_size(call))
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _call_teacher(self, batch: Batch) -> Outputs:
        """The teacher, which may draw random numbers, but not those of the module."""
        device = self.module.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return self.teacher(batch)

    def _batch_size(self, call: Call) -> int | None:
        """For logging; None = Lightning sees it in the batch, which is not so where the step fetches batches itself."""
        if "dataloader_iter" not in inspect.signature(self.original_step).parameters:
            return None
        return next((len(tensor) for tensor in iter_tensors((call.args, call.kwargs)) if tensor.ndim), 1)

    def _select_call(self, calls: list[Call]) -> Call:
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
            if not self._warned_frozen:
                rank_zero_warn(
                    f"DistillationCallback.student: all weights of {self.name!r} are frozen, so it learns nothing from "
                    "the teacher; name the network that is trained"
                )
            self._warned_frozen = True
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

    def _distillation_loss(
        self,
        task_loss: Tensor,
        student: Outputs,
        teacher: Outputs | None,
        scheduled_values: dict[str, float],
        batch_size: int | None,
    ) -> Tensor:
        """The weighted sum of the losses, which are logged with what changes over the run."""
        terms = self.terms(student, teacher)
        distillation_loss = sum(
            (self.terms.weight(name) * term for name, term in terms.items()), torch.zeros_like(task_loss)
        )
        if not torch.isfinite(distillation_loss):
            name = next((name for name, term in terms.items() if not torch.isfinite(term)), "loss")
            raise FloatingPointError(
                f"{self.log_prefix}/{name} is {terms.get(name, distillation_loss).item()} in epoch "
                f"{self.trainer.current_epoch}, step "
                f"{self.trainer.global_step}; lower the learning rate, clip gradients (trainer.gradient_clip_val) or "
                "look at what the teacher makes of this batch"
            )
        logged = {**terms, "task_loss": task_loss, "loss": task_loss + distillation_loss}
        values: dict[str, Any] = {**{name: value.detach() for name, value in logged.items()}, **scheduled_values}
        for name, value in values.items():  # Lightning's own: modules change what log and log_dict take
            LightningModule.log(self.module, f"{self.log_prefix}/{name}", value, batch_size=batch_size)
        return distillation_loss
