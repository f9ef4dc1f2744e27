"""Build the teacher of a ``DistillationCallback`` and replay the student's calls on it."""

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import transformers
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from transformers.utils.generic import find_labels

from lightning_kd import models
from lightning_kd.callbacks.distillation.call_recorder import Call, check_unchanged, record_calls
from lightning_kd.callbacks.distillation.outputs import Key, Layer, build_outputs
from lightning_kd.models import unwrap_compiled
from lightning_kd.models.labels import get_label_names, same_label_set
from lightning_kd.outputs import Batch, Outputs, Requirement
from lightning_kd.teachers.teacher import Teacher


@dataclass
class CallReplay:
    """A ``ModelRunner`` for batches that hold a ``call`` of the student and its ``labels``.

    Attributes:
        auto_class: Name of the transformers class that loads the teacher; empty = unknown.
        logits: Entries of the output that hold the logits; None = build no heads.
        layers: Layers of the teacher whose outputs become ``hidden_states``.
    """

    auto_class: str
    logits: list[Key] | None
    layers: list[Layer] = field(default_factory=list)

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Call the model as the student was called."""
        call: Call = batch["call"]
        with record_calls(model, [layer.path for layer in self.layers]) as calls:
            replay_call(call, model)
        # the student's token_mask applies, because the teacher got the same arguments
        replayed = replace(calls[-1], token_mask=call.token_mask, classes_last=call.classes_last)
        return build_outputs(replayed, "teacher", self.logits, batch["labels"], self.layers)

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """Return the outputs unchanged, because the teacher always reads the student's tokens."""
        return outputs


LABELS = {"labels", "start_positions", "end_positions"}
"""Arguments from which a model computes a loss."""


def replay_call(call: Call, model: nn.Module) -> None:
    """Call a model with the arguments of a recorded call.

    Arguments are passed by name if the model gives the first of them the same name as the recorded model, else by
    position. Labels are dropped, because with them the model would compute a loss, and so are options that the
    model does not accept. The key-value cache is disabled, because nothing reads it. Floating-point tensors are cast
    to the model's dtype, unless autocast does so.

    Args:
        call: The recorded call.
        model: Eager or compiled.

    Raises:
        ValueError: If the model does not accept a tensor of the call, or an argument has been changed in place since.
    """
    remedy = "change a copy (x = x / 255 instead of x /= 255), also inside forward"
    check_unchanged(call.input_versions, "a student argument", remedy)
    parameters = inspect.signature(unwrap_compiled(model).forward).parameters
    args, kwargs = call.args, call.kwargs
    if len(call.positional_names) == len(args) and all(name in parameters for name in call.positional_names[:1]):
        args, kwargs = (), call.named_arguments
    kwargs = _select_arguments(call, kwargs, model, parameters)
    cache_index = list(parameters).index("use_cache") if "use_cache" in parameters else -1
    if len(args) <= cache_index and kwargs.get("past_key_values") is None:
        kwargs["use_cache"] = False
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    if weight is not None and not torch.is_autocast_enabled(weight.device.type):
        args, kwargs = apply_to_collection((args, kwargs), Tensor, partial(_cast_floating, dtype=weight.dtype))
    model(*args, **kwargs)


def _select_arguments(
    call: Call, kwargs: dict[str, Any], model: nn.Module, parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Return the keyword arguments that the model accepts, without labels."""
    optional = {*LABELS, "token_type_ids"}
    if models.get_config(model) is None:
        accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        names = [name for name in kwargs if (accepts_any or name in parameters) and name not in LABELS]
    else:
        names = models.input_names(model, kwargs)
        optional.update(find_labels(type(unwrap_compiled(model))))
    for name in kwargs.keys() & call.parameters.keys() - {*names, *optional}:
        if isinstance(kwargs[name], Tensor):
            raise ValueError(
                f"DistillationCallback.teacher: {type(unwrap_compiled(model)).__name__} does not accept the tensor "
                f"{name!r} that the student receives (its arguments: {', '.join(parameters)}); wrap the teacher in a "
                "module whose forward has the student's argument names"
            )
    return {name: kwargs[name] for name in names}


def _cast_floating(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


@contextmanager
def restored_training_state(models: list[nn.Module]) -> Iterator[None]:
    """Restore ``requires_grad`` and train/eval mode on exit.

    Args:
        models: Teachers that the user passed in, before they are frozen.
    """
    trainable = [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]
    training = [part for model in models for part in model.modules() if part.training]
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True


def build_teacher(source: Any, replay: CallReplay, pl_module: LightningModule, name: str) -> Teacher:
    """Build the teacher, with its classes in the student's order if both models name them.

    Args:
        source: The ``teacher`` argument of ``DistillationCallback``.
        replay: Replays the student's calls on the teacher.
        pl_module: The student's module.
        name: Path of the student in the module.

    Raises:
        ValueError: If there is no teacher, it cannot be loaded, it shares weights with the student, or its classes
            differ.
    """
    if source is None:
        raise ValueError(
            "DistillationCallback.teacher: null; set a Hub id, folder, checkpoint or module, or remove the callback"
        )
    teacher = Teacher(_resolve_source(source, pl_module, name), replay, requires_head=replay.logits is not None)
    student = unwrap_compiled(pl_module.get_submodule(name))
    modules = passed_modules(teacher)
    student_weights = {id(parameter) for parameter in pl_module.parameters()}
    if any(id(parameter) in student_weights for model in modules for parameter in model.parameters()):
        raise ValueError("DistillationCallback.teacher: shares weights with the student; pass a copy.deepcopy of it")
    if not replay.auto_class and len(modules) < len(teacher.models):
        raise ValueError(
            f"DistillationCallback.auto_class: unknown for a teacher from a Hub id or folder, because the student is a "
            f"{type(student).__name__}; set it, such as AutoModelForSequenceClassification, or pass a loaded model"
        )
    names = get_label_names(models.get_id2label(student))
    if names is not None and replay.logits is not None:
        _align_classes(teacher, names)
    return teacher


def passed_modules(teacher: Teacher) -> list[nn.Module]:
    """Return the models of a teacher that were passed in as modules."""
    return [model.source for model in teacher.models if isinstance(model.source, nn.Module)]


def _align_classes(teacher: Teacher, student_names: list[str]) -> None:
    for model in teacher.models:
        names = model.label_names()
        if names is not None and not same_label_set(student_names, names):
            raise ValueError(
                f"DistillationCallback.teacher: {model.name!r} has other classes than the student ({len(names)}: "
                f"{', '.join(names[:3])}, ... against {len(student_names)}: {', '.join(student_names[:3])}, ...); use "
                "a teacher with the student's classes, or, if they mean the same, set its config.id2label accordingly"
            )
    teacher.align_classes(student_names, False)


def _resolve_source(source: Any, pl_module: LightningModule, name: str) -> Any:
    """Replace checkpoints, and modules of the student's class, with the model of the student's name in them."""
    if isinstance(source, (list, tuple)):
        return [_resolve_source(part, pl_module, name) for part in source]
    if isinstance(source, Mapping):
        keys = source.keys() & {"ensemble", "pretrained"}
        return {**source, **{key: _resolve_source(source[key], pl_module, name) for key in keys}}
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".ckpt"):
        return _load_from_checkpoint(os.fspath(source), pl_module, name)
    return source.get_submodule(name) if type(source) is type(pl_module) else source


def _load_from_checkpoint(path: str, pl_module: LightningModule, name: str) -> nn.Module:
    cls = type(pl_module)
    try:
        return cls.load_from_checkpoint(path, map_location="cpu", weights_only=True).get_submodule(name)
    except Exception as error:  # the constructor may raise anything
        detail = " ".join(str(error).split())
        raise ValueError(
            f"DistillationCallback.teacher: {path!r} cannot be loaded by {cls.__name__}.load_from_checkpoint: "
            f"{type(error).__name__}: {detail:.200}; call save_hyperparameters() in the class, or pass a loaded model"
        ) from error


def infer_auto_class(student: nn.Module) -> str:
    """Return the transformers class that loads models with the student's head, or an empty string if unknown."""
    student = unwrap_compiled(student)
    head = re.search(r"(For[A-Z]\w+|LMHeadModel|Model)$", type(student).__name__)
    if head is None or not isinstance(student, transformers.PreTrainedModel):
        return ""
    suffix = {"LMHeadModel": "ForCausalLM", "Model": ""}.get(head[1], head[1])
    return f"AutoModel{suffix}" if hasattr(transformers, f"AutoModel{suffix}") else ""
