"""A teacher that is called as another network was."""

import re
from dataclasses import replace
from typing import Any, cast

import transformers
from lightning.pytorch import LightningModule
from torch import nn

from lightning_kd import models
from lightning_kd.callbacks.distillation.call_recorder import Call, original, recorded_calls, repeat
from lightning_kd.callbacks.distillation.kept_values import Versions
from lightning_kd.callbacks.distillation.outputs import Key, Layer, outputs_of
from lightning_kd.models import labels
from lightning_kd.outputs import Batch, Need, Outputs
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.teacher import Teacher


class AsCalled:
    """Stands for a task: runs a network on a batch that is a ``call`` of another one.

    Args:
        auto_class: Name of the transformers class that loads the network.
        keys: Where its logits are; None = they are not read.

    Attributes:
        layers: Whose outputs are its hidden states.
    """

    named_labels = True
    num_labels = None

    def __init__(self, auto_class: str, keys: list[Key] | None) -> None:
        self.auto_class = auto_class
        self.keys = keys
        self.layers: list[Layer] = []

    def run(self, network: nn.Module, batch: Batch, needs: frozenset[Need] = frozenset()) -> Outputs:
        """Repeat the call."""
        call: Call = batch["call"]
        layers: dict[str, Any] = {}
        if not self.layers:
            output = repeat(call, network)
        else:
            with recorded_calls(network, [layer.path for layer in self.layers]) as calls:
                output = repeat(call, network)
            layers = calls[-1].layers
        # made by the student's arguments: what is padding, it was told
        made = replace(call, output=output, layers=layers, outputs=Versions())
        return outputs_of(made, "teacher", self.keys, batch["labels"], self.layers)


def teacher_for(
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
        auto_class = auto_class_of(student)
    teacher = Teacher(source, cast(Task, AsCalled(auto_class or "", keys)))
    own = labels.label_names_of(models.id_labels(original(student)))
    if own is None or keys is None:
        return teacher
    for member in teacher.members:
        theirs, name = member.label_names(), member.name
        if theirs is not None and not labels.same_set(own, theirs):
            raise ValueError(
                f"DistillationCallback.teacher: {name!r} and the student name other classes ({len(theirs)}: "
                f"{', '.join(theirs[:3])}, ... against {len(own)}: {', '.join(own[:3])}, ...); take a teacher with the "
                "student's, or write the student's into the teacher's config.id2label where they mean the same"
            )
    teacher.align(own, False)
    return teacher


def auto_class_of(student: nn.Module) -> str:
    """The transformers class that loads networks such as the student.

    Raises:
        ValueError: If its name does not say.
    """
    name = type(original(student)).__name__
    head = re.search(r"(For[A-Z]\w+|LMHeadModel|Model)$", name)
    ending = {"LMHeadModel": "ForCausalLM", "Model": ""}.get(head[1], head[1]) if head else "?"
    if isinstance(original(student), transformers.PreTrainedModel) and hasattr(transformers, f"AutoModel{ending}"):
        return f"AutoModel{ending}"
    raise ValueError(
        f"DistillationCallback.teacher: a hub id or folder, and the student, {name}, does not say which class of "
        "transformers loads it; name it, such as auto_class='AutoModelForSequenceClassification', or pass the network"
    )


def network_in_checkpoint(path: str, pl_module: LightningModule, name: str) -> nn.Module:
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
