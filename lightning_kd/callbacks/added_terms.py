"""The losses that are added to somebody else's, as one fit uses them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_kd.callbacks.call_outputs import Layer
from lightning_kd.losses import DecoupledKDLoss, DISTLoss, HardLabelLoss, SoftTargetLoss
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.outputs import Outputs, Shape


SOFTMAX = (SoftTargetLoss, HardLabelLoss, DecoupledKDLoss, DISTLoss)
"""Losses that take logits for those of a distribution."""


def check_loss(name: str, loss: DistillationLoss, has_layers: bool, has_labels: bool) -> None:
    """Refuse a loss that cannot be given what it needs.

    Args:
        name: Its name.
        loss: It.
        has_layers: Whether pairs of layers are named.
        has_labels: Whether it is said where the labels are.

    Raises:
        ValueError: Names what to change.
    """
    if name in ("own_loss", "total"):
        raise ValueError(f"DistillationCallback.losses: {name!r} is logged by the callback itself; rename this loss")
    field = f"DistillationCallback.losses.{name}"
    if "projections" in loss.needs:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares queries, keys and values, which only DistillationModule takes "
            "out of networks; use HiddenStateMSELoss with layers"
        )
    if not loss.needs_teacher and not has_labels:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares with labels; say where they are in the batch with "
            "labels=<key or index>"
        )
    if loss.needs_augmented:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares with texts that were changed, which only DistillationModule "
            "makes; leave it out"
        )
    if loss.needs and not has_layers:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares layers; name pairs of them with layers={{<path in the student>: "
            "<path in the teacher>}"
        )
    if getattr(loss, "layer_map", None) is not None:
        raise ValueError(f"{field}.layer_map: the pairs are those of DistillationCallback.layers; leave it out")


class AddedTerms:
    """Copies of the losses: one of a loss on logits, one for each pair of layers of a loss on hidden states.

    Args:
        losses: The losses by name.
        student: The layers of the student that are compared.
        teacher: Those of the teacher.

    Raises:
        ValueError: If the widths of a pair do not suit a loss.
    """

    def __init__(self, losses: Mapping[str, DistillationLoss], student: list[Layer], teacher: list[Layer]) -> None:
        self.copies: dict[str, list[DistillationLoss]] = {}
        for name, loss in losses.items():
            self.copies[name] = [copy.deepcopy(loss) for _ in (student if loss.needs else [None])]
            if loss.needs:
                for own, ours, theirs in zip(self.copies[name], student, teacher, strict=True):
                    own.prepare(Shape(1, ours.width, 1), Shape(1, theirs.width, 1))
        self._all = nn.ModuleList(loss for copies in self.copies.values() for loss in copies)

    @property
    def need_teacher(self) -> bool:
        """Whether one of them reads the teacher's outputs."""
        return any(copies[0].needs_teacher for copies in self.copies.values())

    def weight(self, name: str) -> float:
        """The factor of a loss in the total."""
        return self.copies[name][0].weight

    @property
    def scheduled(self) -> bool:
        """Whether a weight or a temperature changes over the run."""
        return any(copies[0].schedules for copies in self.copies.values())

    def anneal(self, progress: float) -> dict[str, float]:
        """Set what is scheduled to its value.

        Args:
            progress: Optimiser steps done over all steps, in [0, 1].

        Returns:
            The values by ``<loss name>_<argument>``.
        """
        now: dict[str, float] = {}
        for name, copies in self.copies.items():
            for loss in copies:
                now |= {f"{name}_{argument}": value for argument, value in loss.anneal(progress).items()}
        return now

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move their parameters."""
        self._all.to(device, dtype)

    def parameters(self) -> list[nn.Parameter]:
        """What of them is trained."""
        return [parameter for parameter in self._all.parameters() if parameter.requires_grad]

    def state(self) -> dict[str, list[dict[str, Tensor]]]:
        """Their parameters, by the name of the loss, one mapping for each copy."""
        return {name: [dict(loss.state_dict()) for loss in copies] for name, copies in self.copies.items()}

    def load(self, state: dict[str, list[dict[str, Any]]]) -> None:
        """Load ``state``.

        Raises:
            ValueError: If it is that of other losses.
        """
        for name, copies in self.copies.items():
            saved = state.get(name, [])
            if len(saved) != len(copies):
                raise ValueError(
                    f"DistillationCallback.losses.{name}: the checkpoint is of a run with other losses or layers; "
                    "resume with the same"
                )
            for loss, own in zip(copies, saved, strict=True):
                loss.load_state_dict(own)

    def check_heads(self, student: Outputs) -> None:
        """Refuse one score as a distribution: its softmax is 1, whatever it is.

        Raises:
            ValueError: Names the loss.
        """
        lonely = next((name for name, head in student.heads.items() if head.logits.shape[-1] == 1), None)
        for name, copies in self.copies.items():
            if lonely is not None and isinstance(copies[0], SOFTMAX):
                raise ValueError(
                    f"DistillationCallback.losses.{name}: {type(copies[0]).__name__} takes a softmax over classes, and "
                    f"{lonely!r} has one score only; use LogitMSELoss, or a network with two classes"
                )

    def __call__(self, student: Outputs, teacher: Outputs | None) -> dict[str, Tensor]:
        """Each loss, not weighted; of one on hidden states the mean over the pairs."""
        return {name: self._term(copies, student, teacher) for name, copies in self.copies.items()}

    @staticmethod
    def _term(copies: list[DistillationLoss], student: Outputs, teacher: Outputs | None) -> Tensor:
        if not copies[0].needs:
            term: Tensor = copies[0](student, teacher)
            return term
        assert teacher is not None  # a loss on hidden states compares
        assert student.hidden_states is not None
        assert teacher.hidden_states is not None
        terms = []
        for loss, own, other in zip(copies, student.hidden_states, teacher.hidden_states, strict=True):
            if own.shape[:2] != other.shape[:2]:
                raise ValueError(
                    f"DistillationCallback.layers: the student's layer gives {own.shape[1]} positions and the "
                    f"teacher's {other.shape[1]}; choose layers of one resolution"
                )
            fits = student.tokens is not None and student.tokens.shape == own.shape[:2]
            ours = replace(student, hidden_states=(own,), tokens=student.tokens if fits else None)
            terms.append(loss(ours, replace(teacher, hidden_states=(other,))))
        return torch.stack(terms).mean()
