"""A teacher that is called as another network was."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import transformers
from lightning.pytorch import LightningModule
from torch import nn

from lightning_kd import models
from lightning_kd.callbacks.distillation.call_recorder import (
    Call,
    TensorVersions,
    record_calls,
    replay_call,
    unwrap_compiled,
)
from lightning_kd.callbacks.distillation.outputs import Key, Layer, build_outputs
from lightning_kd.models import labels
from lightning_kd.outputs import Batch, Outputs, Requirement
from lightning_kd.teachers.teacher import Teacher


class CallReplayTask:
    """The ``ModelRunner`` of the drop-in: runs a network on a batch that is a ``call`` of another one.

    Args:
        auto_class: Name of the transformers class that loads the network.
        keys: Where its logits are; None = they are not read.

    Attributes:
        layers: Whose outputs are its hidden states.
    """

    def __init__(self, auto_class: str, keys: list[Key] | None) -> None:
        self.auto_class = auto_class
        self.keys = keys
        self.layers: list[Layer] = []

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Repeat the call."""
        call: Call = batch["call"]
        layers: dict[str, Any] = {}
        if not self.layers:
            output = replay_call(call, model)
        else:
            with record_calls(model, [layer.path for layer in self.layers]) as calls:
                output = replay_call(call, model)
            layers = calls[-1].layers
        # made by the student's arguments: what is padding, it was told
        replayed = replace(call, output=output, layers=layers, output_versions=TensorVersions())
        return build_outputs(replayed, "teacher", self.keys, batch["labels"], self.layers)

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """Return the outputs as they are: the teacher always reads the student's tokens."""
        return outputs


def build_teacher(
    student: nn.Module, source: Any, loaded: bool, auto_class: str | None, keys: list[Key] | None
) -> Teacher:
    """A teacher for a student, its classes in the student's order where both name them.

    Args:
        student: The network.
        source: As ``Teacher`` takes it.
        loaded: Whether all of it are networks already.
        auto_class: Name of the transformers class that loads those that are no modules; None = as for the student.
        keys: Where the logits are.

    Raises:
        ValueError: If no class is known to load it with, or it has other classes than the student.
    """
    if auto_class is None and not loaded:
        auto_class = infer_auto_class(student)
    teacher = Teacher(source, CallReplayTask(auto_class or "", keys))
    student_names = labels.get_label_names(models.get_id2label(unwrap_compiled(student)))
    if student_names is None or keys is None:
        return teacher
    for member in teacher.models:
        teacher_names, name = member.label_names(), member.name
        if teacher_names is not None and not labels.same_label_set(student_names, teacher_names):
            raise ValueError(
                f"DistillationCallback.teacher: {name!r} and the student name other classes ({len(teacher_names)}: "
                f"{', '.join(teacher_names[:3])}, ... against {len(student_names)}: {', '.join(student_names[:3])}, "
                f"...); take a teacher with the "
                "student's, or write the student's into the teacher's config.id2label where they mean the same"
            )
    teacher.align_classes(student_names, False)
    return teacher


def infer_auto_class(student: nn.Module) -> str:
    """The transformers class that loads networks such as the student.

    Raises:
        ValueError: If its name does not say.
    """
    name = type(unwrap_compiled(student)).__name__
    head = re.search(r"(For[A-Z]\w+|LMHeadModel|Model)$", name)
    ending = {"LMHeadModel": "ForCausalLM", "Model": ""}.get(head[1], head[1]) if head else "?"
    if isinstance(unwrap_compiled(student), transformers.PreTrainedModel) and hasattr(
        transformers, f"AutoModel{ending}"
    ):
        return f"AutoModel{ending}"
    raise ValueError(
        f"DistillationCallback.teacher: a hub id or folder, and the student, {name}, does not say which class of "
        "transformers loads it; name it, such as auto_class='AutoModelForSequenceClassification', or pass the network"
    )


def load_model_from_checkpoint(path: str, pl_module: LightningModule, name: str) -> nn.Module:
    """The network of the same name in a checkpoint of the same class.

    Raises:
        ValueError: If it cannot be loaded.
    """
    cls = type(pl_module)
    try:
        module = cls.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        return module.get_submodule(name)
    except Exception as error:  # whatever the constructor raises
        detail = " ".join(str(error).split())
        raise ValueError(
            f"DistillationCallback.teacher: {path!r} cannot be loaded by {cls.__name__}.load_from_checkpoint: "
            f"{type(error).__name__}: {detail:.200}; its class must have called save_hyperparameters(), or load the "
            "network yourself and pass it"
        ) from error


def resolve_teacher(teacher: Any, pl_module: LightningModule, student: str) -> Any:
    """The same with networks in the place of checkpoints and of modules of the student's class.

    Args:
        teacher: As ``DistillationCallback`` takes it.
        pl_module: The student's module.
        student: Name of the network in it.

    Raises:
        ValueError: If a checkpoint cannot be loaded, there is no teacher, or it shares weights with the student.
    """
    resolved = _resolve(teacher, pl_module, student)
    student_ids = {id(parameter) for parameter in pl_module.parameters()}
    if any(id(parameter) in student_ids for model in loaded_models(resolved) for parameter in model.parameters()):
        raise ValueError("DistillationCallback.teacher: has weights of the student; pass a copy.deepcopy of it")
    return resolved


def _resolve(teacher: Any, pl_module: LightningModule, student: str) -> Any:
    if teacher is None:
        raise ValueError(
            "DistillationCallback.teacher: null; give a hub id, a folder, a checkpoint or a network, or leave the "
            "callback out"
        )
    if isinstance(teacher, os.PathLike):
        teacher = os.fspath(teacher)
    if isinstance(teacher, (list, tuple)):
        return [_resolve(part, pl_module, student) for part in teacher]
    if isinstance(teacher, Mapping):
        if "ensemble" in teacher:
            return {**teacher, "ensemble": _resolve(teacher["ensemble"], pl_module, student)}
        source = _resolve(teacher["pretrained"], pl_module, student) if "pretrained" in teacher else None
        return source if isinstance(source, nn.Module) and len(teacher) == 1 else teacher
    if isinstance(teacher, str) and teacher.endswith(".ckpt"):
        return load_model_from_checkpoint(teacher, pl_module, student)
    return teacher.get_submodule(student) if type(teacher) is type(pl_module) else teacher


def list_members(teacher: Any) -> list[Any]:
    """The members, each a name, a mapping or a network."""
    if isinstance(teacher, Mapping):
        teacher = teacher.get("ensemble", [teacher])
    return list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]


def loaded_models(teacher: Any) -> Iterator[nn.Module]:
    """Those members that are networks already."""
    return (part for part in list_members(teacher) if isinstance(part, nn.Module))


class RestoreTrainingState:
    """What was trainable and in train mode in networks that others go on with.

    Args:
        models: As they were given, before they are frozen.
    """

    def __init__(self, models: list[nn.Module]) -> None:
        self.trainable_parameters = [parameter for model in models for parameter in model.parameters()]
        self.trainable_parameters = [parameter for parameter in self.trainable_parameters if parameter.requires_grad]
        self.training_modules = [part for model in models for part in model.modules() if part.training]

    def restore(self) -> None:
        """Make it so again."""
        for parameter in self.trainable_parameters:
            parameter.requires_grad_(True)
        for part in self.training_modules:
            part.training = True
