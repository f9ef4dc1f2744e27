"""Add distillation losses to the training step of a module."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_kd.callbacks.distillation.call_recorder import Call, iter_tensors, record_calls
from lightning_kd.callbacks.distillation.losses import LossTerms
from lightning_kd.callbacks.distillation.outputs import Key, Layer, build_outputs, get_entry
from lightning_kd.callbacks.distillation.token_alignment import align_tokens_and_labels
from lightning_kd.outputs import Batch, Outputs
from lightning_kd.teachers.teacher import Teacher


@dataclass(eq=False)
class StepPatch:
    """A wrapper of ``training_step`` that replays the student's call on the teacher and adds the losses.

    Attributes:
        module: The user's module.
        student_name: Path of the student in the module.
        layers: Layers of the student that are compared.
        logits: Entries of the output that hold the logits; None = no loss reads them.
        labels: Entries of the batch that hold the labels.
        call: Index of the call to distill; None = the only one.
        teacher: The teacher, run by a ``CallReplay``.
        terms: The losses.
        log_prefix: Prefix of the logged names.
        student_called: True once a step has called the student; from then on, steps that do not are left unchanged.
        student: The student.
        original_step: The module's ``training_step``.
    """

    module: LightningModule
    student_name: str
    layers: list[Layer]
    logits: list[Key] | None
    labels: list[Key]
    call: int | None
    teacher: Teacher
    terms: LossTerms
    log_prefix: str
    student_called: bool
    student: nn.Module = field(init=False)
    original_step: Callable[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        self.student = self.module.get_submodule(self.student_name)
        self.original_step = self.module.training_step
        self._previous_step = self.module.__dict__.get("training_step")
        self._active = False
        self._warned_frozen = False

    def install(self) -> None:
        """Replace ``training_step`` on the instance, where strategies look it up."""

        @functools.wraps(self.original_step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if not self._active or not self.module.trainer.training:  # validation_step may call training_step
                return self.original_step(*args, **kwargs)
            return self.run(*args, **kwargs)

        training_step.step_patch = self  # type: ignore[attr-defined]
        self._active = True
        self.module.training_step = training_step  # type: ignore[method-assign]

    def remove(self) -> None:
        """Restore ``training_step``; below another active patch, only become inactive."""
        self._active = False
        step = self.module.__dict__.get("training_step")
        while (patch := getattr(step, "step_patch", None)) is not None and not patch._active:
            step = patch._previous_step
        if step is None:
            self.module.__dict__.pop("training_step", None)
        else:
            self.module.training_step = step  # type: ignore[method-assign]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the original step and return its result with the weighted losses added.

        Raises:
            ValueError: If the student's calls or outputs cannot be used.
            FloatingPointError: If a loss is not finite.
        """
        with record_calls(self.student, [layer.path for layer in self.layers]) as calls:
            result = self.original_step(*args, **kwargs)
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if not isinstance(loss, Tensor):  # a skipped step, or a result that Lightning rejects
            return result
        if not calls and self.student_called:  # such as a step of another task
            return result
        call = self._select_call(calls)
        self.student_called = True
        batch = args[0] if args else next(iter(kwargs.values()))
        labels = [get_entry(batch, key, "labels", "the batch") for key in self.labels]
        call, labels = align_tokens_and_labels(call, self.student, labels)
        student = build_outputs(call, "student", self.logits, labels, self.layers)
        self._check_gradients(student)
        self.terms.check_heads(student)
        scheduled = self.terms.update_schedules(self.module.global_step)
        teacher = self._run_teacher({"call": call, "labels": labels}) if self.terms.require_teacher else None
        losses = self.terms(student, teacher)
        total = loss + self._weighted_sum(losses, loss, teacher)
        self._log({**losses, "task_loss": loss, "loss": total}, scheduled, self._batch_size(call))
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _run_teacher(self, batch: Batch) -> Outputs:
        """Run the teacher without advancing the random state of the module."""
        device = self.module.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return self.teacher(batch)

    def _select_call(self, calls: list[Call]) -> Call:
        if not calls:
            raise ValueError(
                f"DistillationCallback.student: training_step does not call {self.student_name!r}, or calls its "
                "forward or a submodule directly; name a model that it calls as a function"
            )
        index = self.call or 0
        if not -len(calls) <= index < len(calls) or (self.call is None and len(calls) > 1):
            raise ValueError(
                f"DistillationCallback.call: {'null' if self.call is None else index}, but training_step calls "
                f"{self.student_name!r} {len(calls)} times; set 0 for the first call, -1 for the last"
            )
        return calls[index]

    def _check_gradients(self, student: Outputs) -> None:
        logits = [head.logits for head in student.heads.values()]
        states = student.hidden_states or ()
        trainable = any(parameter.requires_grad for parameter in self.student.parameters())
        if not trainable and not any(tensor.requires_grad for tensor in (*logits, *states)):
            if not self._warned_frozen:
                rank_zero_warn(
                    f"DistillationCallback.student: all weights of {self.student_name!r} are frozen, so it learns "
                    "nothing from the teacher; name a model that is trained"
                )
            self._warned_frozen = True
            return
        if not all(tensor.requires_grad for tensor in logits):
            raise ValueError(
                f"DistillationCallback.call: {self.call or 0} was made without gradients, so the student would learn "
                "nothing; select another call"
            )
        for layer, tensor in zip(self.layers, states, strict=True):
            if not tensor.requires_grad:
                raise ValueError(
                    f"DistillationCallback.layers: {layer.path!r} has an output without gradients, so the student "
                    "would learn nothing there; checkpoint activations with use_reentrant=False, leave out frozen "
                    "layers, or select another call"
                )

    def _weighted_sum(self, losses: dict[str, Tensor], task_loss: Tensor, teacher: Outputs | None) -> Tensor:
        total = sum((self.terms.weight(name) * loss for name, loss in losses.items()), torch.zeros_like(task_loss))
        if not torch.isfinite(total):
            step = f"epoch {self.module.current_epoch}, step {self.module.global_step}"
            if teacher is not None and not teacher.is_finite:
                raise FloatingPointError(
                    f"{self.teacher.role} returned NaN or infinite values in {step}; use another precision, or inspect "
                    "its weights and this batch"
                )
            name = next((name for name, loss in losses.items() if not torch.isfinite(loss)), "loss")
            raise FloatingPointError(
                f"{self.log_prefix}/{name} is {losses.get(name, total).item()} in {step}; lower the learning rate, "
                "clip gradients (trainer.gradient_clip_val), or inspect this batch"
            )
        return total

    def _log(self, losses: dict[str, Tensor], scheduled: dict[str, float], batch_size: int | None) -> None:
        values: dict[str, Any] = {**{name: loss.detach() for name, loss in losses.items()}, **scheduled}
        for name, value in values.items():  # not self.module.log, whose signature the user may have changed
            LightningModule.log(self.module, f"{self.log_prefix}/{name}", value, batch_size=batch_size)

    def _batch_size(self, call: Call) -> int | None:
        """Return the batch size for logging where Lightning does not see the batch, else None."""
        if "dataloader_iter" not in inspect.signature(self.original_step).parameters:
            return None
        return next((len(tensor) for tensor in iter_tensors((call.args, call.kwargs)) if tensor.ndim), 1)
