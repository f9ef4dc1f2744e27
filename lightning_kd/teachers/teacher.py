"""The teacher: frozen networks that stand outside the module tree."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.models.labels import align
from lightning_kd.outputs import TEACHER_INPUTS, Batch, Head, Need, Outputs, in_other_encoding
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.ensemble import COMBINE, Combine, combined_logits
from lightning_kd.teachers.frozen_network import FrozenNetwork, Source


def _members(given: Any) -> tuple[list[Source], Combine]:
    """The networks that are given, and how their predictions become one."""
    combine: Any = "logits"
    if isinstance(given, Mapping) and "ensemble" in given:
        unknown = sorted(set(given) - {"ensemble", "combine"})
        if unknown:
            raise ValueError(f"teacher.{unknown[0]}: an ensemble has the keys 'ensemble' and 'combine'; leave it out")
        given, combine = given["ensemble"], given.get("combine", combine)
        if not isinstance(given, (list, tuple)):
            raise ValueError(f"teacher.ensemble: must be a list of networks, got {type(given).__name__}")
    if combine not in COMBINE:
        raise ValueError(f"teacher.combine: must be one of {', '.join(COMBINE)}, got {combine!r}")
    sources = list(given) if isinstance(given, (list, tuple)) else [given]
    if not sources:
        raise ValueError("teacher: the list is empty; name at least one network, or null for none")
    return sources, combine


class Teacher:
    """One frozen network, or several whose predictions are combined.

    The class is no ``nn.Module``: so Lightning neither saves nor trains nor averages nor replicates the teacher.
    Networks are loaded on first use, are always in eval mode and never require a gradient.

    Args:
        source: Hub id or folder; a mapping of such a ``source`` and arguments of ``from_pretrained``; a module; a
            list of these (an ensemble, logits averaged); or ``{ensemble: [...], combine: ...}``, see
            ``ensemble.combined_logits``.
        task: The task whose heads the networks have.

    Attributes:
        members: The networks.
        combine: How their predictions become one.

    Raises:
        ValueError: If the list is empty, ``combine`` is unknown, or a mapping has no ``source`` or holds what is no
            plain data.
    """

    def __init__(self, source: Source | list[Any], task: Task) -> None:
        sources, self.combine = _members(source)
        self.members = [FrozenNetwork(given, task.auto_class) for given in sources]
        self.task = task
        self._mesh: DeviceMesh | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        # callbacks such as weight averaging copy the whole module; the teacher is shared, not copied
        return self

    @property
    def names(self) -> list[str]:
        """How each network is called in messages and model cards."""
        return [member.name for member in self.members]

    @property
    def plain_source(self) -> list[Any] | dict[str, Any] | None:
        """The hub ids, folders and mappings, as checkpoints save them; None if a network was given as a module."""
        sources = [member.plain_source for member in self.members]
        if None in sources:
            return None
        return sources if self.combine == "logits" else {"ensemble": sources, "combine": self.combine}

    @property
    def description(self) -> str:
        """What tells it from others, as far as it was said; the weights of modules are not looked at."""
        return repr((self.plain_source or self.names, self.combine))

    @property
    def networks(self) -> list[nn.Module]:
        """The networks, loaded on first use."""
        return [member.network for member in self.members]

    def unload(self) -> None:
        """Forget the networks; those of a folder or id are loaded anew when they are needed, others are at hand."""
        for member in self.members:
            member.unload()

    def label_names(self) -> list[str] | None:
        """The label names of the first network; None where it has only placeholders. Does not load weights."""
        return self.members[0].label_names()

    def align(self, label_names: list[str], accept_mismatch: bool) -> None:
        """Reorder the logits of each network from its own label order to ``label_names``.

        A network with placeholders for names is taken to be in that order already. Where the classes of a task have no
        names, only the size of the heads is checked.

        Raises:
            ValueError: If a network's label set is another one and ``accept_mismatch`` is False, or if the numbers
                of labels differ.
        """
        for member in self.members:
            own, who = member.label_names(), f"teacher {member.name!r}"
            if self.task.num_labels is not None:
                models.check_label_count(member.config(), self.task.num_labels, who)
            if not self.task.named_labels:
                continue
            if own is not None:
                remedy = "train a teacher on these labels"
                member.columns = align(label_names, own, f"student and {who}", remedy, accept_mismatch)
            else:
                models.check_label_count(member.config(), len(label_names), who)
                if member.config() is not None:  # a plain network has nowhere to name them
                    rank_zero_warn(f"{who} does not name its labels; they are taken to be in the student's order")

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
        for member in self.members:
            member.to((device, dtype, mesh))

    @property
    def divided(self) -> bool:
        """Whether the networks are divided among devices, which then must all call them at once."""
        return self._mesh is not None

    def parameter_count(self) -> int:
        """Parameters of all networks; does not load weights that are not loaded yet."""
        return sum(member.parameter_count() for member in self.members)

    @torch.no_grad()
    def __call__(self, batch: Batch, needs: frozenset[Need] = frozenset()) -> Outputs:
        """What the teacher returns for a batch, in the student's label order and at the student's positions.

        Hidden states and projections are those of a single network: an ensemble has none.
        """
        outputs = [self._ask(index, batch, needs) for index in range(len(self.members))]
        if len(outputs) == 1:
            return outputs[0]
        heads = {
            name: replace(
                head, logits=combined_logits([o.heads[name].logits for o in outputs], head.mask, self.combine)
            )
            for name, head in outputs[0].heads.items()
        }
        return replace(outputs[0], heads=heads)

    def _ask(self, index: int, batch: Batch, needs: frozenset[Need]) -> Outputs:
        """What one network returns."""
        member = self.members[index]
        encodings = batch.get(TEACHER_INPUTS, [])
        own = encodings[min(index, len(encodings) - 1)] if encodings else None
        outputs = self.task.run(member.network, batch if own is None else in_other_encoding(batch, own), needs)
        if own is not None:
            outputs = self.task.at_student_positions(outputs, own, batch)
        heads = {
            name: Head(member.in_student_order(head.logits), head.labels, head.mask)
            for name, head in outputs.heads.items()
        }
        return replace(outputs, heads=heads)
