"""What somebody gives as a teacher: names, networks, checkpoints, and lists and mappings of these."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_kd.callbacks.distillation.teacher import network_in_checkpoint


def resolved(given: Any, pl_module: LightningModule, student: str) -> Any:
    """The same with networks in the place of checkpoints and of modules of the student's class.

    Args:
        given: As ``DistillationCallback`` takes it.
        pl_module: The student's module.
        student: Name of the network in it.

    Raises:
        ValueError: If a checkpoint cannot be loaded, there is no teacher, or it shares weights with the student.
    """
    made = _resolved(given, pl_module, student)
    own = {id(parameter) for parameter in pl_module.parameters()}
    if any(id(parameter) in own for network in networks_in(made) for parameter in network.parameters()):
        raise ValueError("DistillationCallback.teacher: has weights of the student; pass a copy.deepcopy of it")
    return made


def _resolved(given: Any, pl_module: LightningModule, student: str) -> Any:
    if given is None:
        raise ValueError(
            "DistillationCallback.teacher: null; give a hub id, a folder, a checkpoint or a network, or leave the "
            "callback out"
        )
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if isinstance(given, (list, tuple)):
        return [_resolved(part, pl_module, student) for part in given]
    if isinstance(given, Mapping):
        if "ensemble" in given:
            return {**given, "ensemble": _resolved(given["ensemble"], pl_module, student)}
        source = _resolved(given["source"], pl_module, student) if "source" in given else None
        return source if isinstance(source, nn.Module) and len(given) == 1 else given
    if isinstance(given, str) and given.endswith(".ckpt"):
        return network_in_checkpoint(given, pl_module, student)
    return given.get_submodule(student) if type(given) is type(pl_module) else given


def parts_of(given: Any) -> list[Any]:
    """The members, each a name, a mapping or a network."""
    if isinstance(given, Mapping):
        given = given.get("ensemble", [given])
    return list(given) if isinstance(given, (list, tuple)) else [given]


def networks_in(given: Any) -> Iterator[nn.Module]:
    """Those members that are networks already."""
    return (part for part in parts_of(given) if isinstance(part, nn.Module))


class Borrowed:
    """What was trainable and in train mode in networks that others go on with.

    Args:
        networks: As they were given, before they are frozen.
    """

    def __init__(self, networks: list[nn.Module]) -> None:
        self.trained = [parameter for network in networks for parameter in network.parameters()]
        self.trained = [parameter for parameter in self.trained if parameter.requires_grad]
        self.training = [part for network in networks for part in network.modules() if part.training]

    def give_back(self) -> None:
        """Make it so again."""
        for parameter in self.trained:
            parameter.requires_grad_(True)
        for part in self.training:
            part.training = True
