"""What somebody gives as a teacher: names, networks, checkpoints, and lists and mappings of these."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_kd.callbacks.distillation.teacher import load_model_from_checkpoint


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
