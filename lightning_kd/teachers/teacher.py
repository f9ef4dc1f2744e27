"""The teacher: frozen networks that stand outside the module tree."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.models.labels import align_labels
from lightning_kd.outputs import TEACHER_INPUTS, Batch, Head, Outputs, Requirement, with_inputs
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.ensemble import COMBINE_MODES, CombineMode, combine_logits
from lightning_kd.teachers.frozen_network import FrozenModel, Source


def _parse_sources(source: Any) -> tuple[list[Source], CombineMode]:
    """The networks that are given, and how their predictions become one."""
    combine: Any = "logits"
    if isinstance(source, Mapping) and "ensemble" in source:
        unknown = sorted(set(source) - {"ensemble", "combine"})
        if unknown:
            raise ValueError(f"teacher.{unknown[0]}: an ensemble has the keys 'ensemble' and 'combine'; leave it out")
        source, combine = source["ensemble"], source.get("combine", combine)
        if not isinstance(source, (list, tuple)):
            raise ValueError(f"teacher.ensemble: must be a list of networks, got {type(source).__name__}")
    if combine not in COMBINE_MODES:
        raise ValueError(f"teacher.combine: must be one of {', '.join(COMBINE_MODES)}, got {combine!r}")
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise ValueError("teacher: the list is empty; name at least one network, or null for none")
    return sources, combine


class Teacher:
    """One frozen network, or several whose predictions are combined.

    The class is no ``nn.Module``: so Lightning neither saves nor trains nor averages nor replicates the teacher.
    Networks are loaded on first use, are always in eval mode and never require a gradient.

    Args:
        source: Hub id or folder; a mapping of such a ``pretrained`` and arguments of ``from_pretrained``; a module; a
            list of these (an ensemble, logits averaged); or ``{ensemble: [...], combine: ...}``, see
            ``ensemble.combine_logits``.
        task: The task whose heads the networks have.

    Attributes:
        models: The networks.
        combine: How their predictions become one.

    Raises:
        ValueError: If the list is empty, ``combine`` is unknown, or a mapping has no ``pretrained`` or holds what is no
            plain data.
    """

    def __init__(self, source: Source | list[Any], task: Task) -> None:
        sources, self.combine = _parse_sources(source)
        self.models = [FrozenModel(item, task.auto_class) for item in sources]
        self.task = task
        self._mesh: DeviceMesh | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        # callbacks such as weight averaging copy the whole module; the teacher is shared, not copied
        return self

    @property
    def names(self) -> list[str]:
        """How each network is called in messages and model cards."""
        return [model.name for model in self.models]

    @property
    def source_config(self) -> list[Any] | dict[str, Any] | None:
        """The hub ids, folders and mappings, as checkpoints save them; None if a network was given as a module."""
        sources = [model.source_config for model in self.models]
        if None in sources:
            return None
        return sources if self.combine == "logits" else {"ensemble": sources, "combine": self.combine}

    @property
    def source_repr(self) -> str:
        """What tells it from others, as far as it was said; the weights of modules are not looked at."""
        return repr((self.source_config or self.names, self.combine))

    def load(self) -> list[nn.Module]:
        """The networks, loaded on first use."""
        return [model.load() for model in self.models]

    def unload(self) -> None:
        """Forget the networks; those of a folder or id are loaded anew when they are needed, others are at hand."""
        for model in self.models:
            model.unload()

    def label_names(self) -> list[str] | None:
        """The label names of the first network; None where it has only placeholders. Does not load weights."""
        return self.models[0].label_names()

    def align_classes(self, label_names: list[str], ignore_mismatch: bool) -> None:
        """Reorder the logits of each network from its own label order to ``label_names``.

        A network with placeholders for names is taken to be in that order already. Where the classes of a task have no
        names, only the size of the heads is checked.

        Raises:
            ValueError: If a network's label set is another one and ``ignore_mismatch`` is False, or if the numbers
                of labels differ.
        """
        for model in self.models:
            model_labels, description = model.label_names(), f"teacher {model.name!r}"
            if self.task.num_labels is not None:
                models.check_num_labels(model.config(), self.task.num_labels, description)
            if not self.task.named_labels:
                continue
            if model_labels is not None:
                remedy = "train a teacher on these labels"
                model.class_permutation = align_labels(
                    label_names, model_labels, f"student and {description}", remedy, ignore_mismatch
                )
            else:
                models.check_num_labels(model.config(), len(label_names), description)
                if model.config() is not None:  # a plain network has nowhere to name them
                    rank_zero_warn(
                        f"{description} does not name its labels; they are taken to be in the student's order"
                    )

    def to(self, device: torch.device, dtype: torch.dtype, mesh: DeviceMesh | None = None) -> None:
        """Settle the device; networks loaded from an id or folder take the student's precision, too.

        Networks that are not loaded yet are moved when they are. Quantised networks and those with a ``device_map``
        stay as and where they were loaded.

        Args:
            device: The student's.
            dtype: The student's.
            mesh: The devices among which to divide each network layer by layer, so that none need hold it whole; None
                where the strategy does not shard.
        """
        self._mesh = mesh
        for model in self.models:
            model.to((device, dtype, mesh))

    @property
    def is_sharded(self) -> bool:
        """Whether the networks are divided among devices, which then must all call them at once."""
        return self._mesh is not None

    def num_parameters(self) -> int:
        """Parameters of all networks; does not load weights that are not loaded yet."""
        return sum(model.num_parameters() for model in self.models)

    @torch.no_grad()
    def __call__(self, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """What the teacher returns for a batch, in the student's label order and at the student's positions.

        Hidden states and projections are those of a single network: an ensemble has none.
        """
        outputs = [self._call_model(index, batch, requires) for index in range(len(self.models))]
        if len(outputs) == 1:
            return outputs[0]
        heads = {
            name: replace(head, logits=combine_logits([o.heads[name].logits for o in outputs], head.mask, self.combine))
            for name, head in outputs[0].heads.items()
        }
        return replace(outputs[0], heads=heads)

    def _call_model(self, index: int, batch: Batch, requires: frozenset[Requirement]) -> Outputs:
        """What one network returns."""
        model = self.models[index]
        encodings = batch.get(TEACHER_INPUTS, [])
        teacher_inputs = encodings[min(index, len(encodings) - 1)] if encodings else None
        outputs = self.task.run(
            model.load(), batch if teacher_inputs is None else with_inputs(batch, teacher_inputs), requires
        )
        if teacher_inputs is not None:
            outputs = self.task.align_to_student(outputs, teacher_inputs, batch)
        heads = {
            name: Head(model.permute_classes(head.logits), head.labels, head.mask)
            for name, head in outputs.heads.items()
        }
        return replace(outputs, heads=heads)
