"""The losses that are added to somebody else's, as one fit uses them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_kd.callbacks.distillation.outputs import Layer
from lightning_kd.losses import DecoupledKDLoss, DISTLoss, HardLabelLoss, SoftTargetLoss
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.outputs import ModelDims, Outputs
from lightning_kd.training.loss_schedules import LossSchedules, apply_schedules

SOFTMAX_LOSSES = (SoftTargetLoss, HardLabelLoss, DecoupledKDLoss, DISTLoss)
"""Losses that take logits for those of a distribution."""


class LossTerms:
    """Copies of the losses: one of a loss on logits, one for each pair of layers of a loss on hidden states.

    Args:
        losses: The losses by name.
        schedules: Their arguments that change over the run.
        student: The layers of the student that are compared.
        teacher: Those of the teacher.

    Raises:
        ValueError: If the widths of a pair do not suit a loss.
    """

    def __init__(
        self,
        losses: Mapping[str, DistillationLoss],
        schedules: LossSchedules,
        student: list[Layer],
        teacher: list[Layer],
    ) -> None:
        self.schedules = schedules
        self.copies: dict[str, list[DistillationLoss]] = {}
        for name, loss in losses.items():
            self.copies[name] = [copy.deepcopy(loss) for _ in (student if loss.requires else [None])]
            if loss.requires:
                for loss_copy, student_layer, teacher_layer in zip(self.copies[name], student, teacher, strict=True):
                    loss_copy.setup(ModelDims(1, student_layer.width, 1), ModelDims(1, teacher_layer.width, 1))
        pairs = [
            f"{a.path} ({a.width} wide) with {b.path} ({b.width} wide)" for a, b in zip(student, teacher, strict=True)
        ]
        self.signature = "; ".join([f"{name}: {type(loss).__name__}" for name, loss in losses.items()] + pairs)
        self._module_list = nn.ModuleList(loss for copies in self.copies.values() for loss in copies)

    @property
    def needs_teacher(self) -> bool:
        """Whether one of them reads the teacher's outputs now."""
        return any(loss.requires_teacher for loss in self._active_losses().values())

    def _active_losses(self) -> dict[str, DistillationLoss]:
        """The first copy of each loss that counts: not one that needs the teacher and whose schedule is at 0."""
        first = {name: copies[0] for name, copies in self.copies.items()}
        return {
            n: s
            for n, s in first.items()
            if s.weight or not s.requires_teacher or "weight" not in self.schedules.get(n, {})
        }

    def weight(self, name: str) -> float:
        """The factor of a loss in the total."""
        return self.copies[name][0].weight

    def update_schedules(self, progress: float) -> dict[str, float]:
        """Set what is scheduled to its value.

        Args:
            progress: Optimiser steps done over all steps, in [0, 1].

        Returns:
            The values by ``<loss name>_<argument>``.
        """
        values: dict[str, float] = {}
        for name, schedules in self.schedules.items():
            for loss in self.copies[name]:
                values |= apply_schedules({name: schedules}, {name: loss}, progress)
        return values

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move their parameters."""
        self._module_list.to(device, dtype)

    def parameters(self) -> list[nn.Parameter]:
        """What of them is trained."""
        return [parameter for parameter in self._module_list.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """Their parameters, by the name of the loss, one mapping for each copy; and what they are of."""
        states = {name: [dict(loss.state_dict()) for loss in copies] for name, copies in self.copies.items()}
        return {"losses": states, "signature": self.signature}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load ``state_dict``.

        Raises:
            ValueError: If it is that of other losses or layers, or in another order, which is that of the optimiser.
        """
        if state["signature"] != self.signature:
            raise ValueError(
                f"DistillationCallback.losses: the checkpoint is of a run with {state['signature']}, and this one has "
                f"{self.signature}; resume with the same in the same order"
            )
        for name, copies in self.copies.items():
            for loss, loss_state in zip(copies, state["losses"][name], strict=True):
                loss.load_state_dict(loss_state)

    def check_heads(self, student: Outputs) -> None:
        """Refuse one score as a distribution: its softmax is 1, whatever it is.

        Raises:
            ValueError: Names the loss.
        """
        single_logit_head = next((name for name, head in student.heads.items() if head.logits.shape[-1] == 1), None)
        for name, copies in self.copies.items():
            if single_logit_head is not None and isinstance(copies[0], SOFTMAX_LOSSES):
                raise ValueError(
                    f"DistillationCallback.losses.{name}: {type(copies[0]).__name__} takes a softmax over classes, and "
                    f"{single_logit_head!r} has one score only; use LogitMSELoss, or a network with two classes"
                )

    def __call__(self, student: Outputs, teacher: Outputs | None) -> dict[str, Tensor]:
        """Each loss that counts now, not weighted; of one on hidden states the mean over the pairs."""
        return {name: self._compute_term(self.copies[name], student, teacher) for name in self._active_losses()}

    @staticmethod
    def _compute_term(copies: list[DistillationLoss], student: Outputs, teacher: Outputs | None) -> Tensor:
        if not copies[0].requires:
            term: Tensor = copies[0](student, teacher)
            return term
        assert teacher is not None  # a loss on hidden states compares
        assert student.hidden_states is not None
        assert teacher.hidden_states is not None
        terms = []
        for loss, student_states, teacher_states in zip(
            copies, student.hidden_states, teacher.hidden_states, strict=True
        ):
            if student_states.shape[:2] != teacher_states.shape[:2]:
                raise ValueError(
                    f"DistillationCallback.layers: the student's layer gives {student_states.shape[1]} positions and "
                    f"the "
                    f"teacher's {teacher_states.shape[1]}; choose layers of one resolution"
                )
            fits = student.token_mask is not None and student.token_mask.shape == student_states.shape[:2]
            student_pair = replace(
                student, hidden_states=(student_states,), token_mask=student.token_mask if fits else None
            )
            terms.append(loss(student_pair, replace(teacher, hidden_states=(teacher_states,))))
        return torch.stack(terms).mean()


def check_losses(losses: Any, has_layers: bool, has_labels: bool) -> None:
    """Refuse what is no mapping of losses, or lacks something.

    Args:
        losses: The losses by name.
        has_layers: Whether pairs of layers are named.
        has_labels: Whether it is said where the labels are.

    Raises:
        ValueError: Names what to change.
    """
    field = "DistillationCallback.losses"
    if not isinstance(losses, Mapping):
        raise ValueError(
            f"{field}: must be a mapping of names to losses, such as {{'soft': SoftTargetLoss()}}, got "
            f"{type(losses).__name__}"
        )
    if not losses:
        raise ValueError(f"{field}: empty; give at least one, such as SoftTargetLoss")
    for name, loss in losses.items():
        if not isinstance(loss, DistillationLoss):
            raise ValueError(
                f"{field}.{name}: {type(loss).__name__} is none of lightning_kd.losses; take one of them, or write one "
                "that extends DistillationLoss"
            )
        _check_loss(name, loss, has_layers, has_labels)


def _check_loss(name: str, loss: DistillationLoss, has_layers: bool, has_labels: bool) -> None:
    """Refuse a loss that cannot be given what it needs."""
    if name in ("task_loss", "loss"):
        raise ValueError(f"DistillationCallback.losses: {name!r} is logged by the callback itself; rename this loss")
    field = f"DistillationCallback.losses.{name}"
    if "qkv" in loss.requires:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares queries, keys and values, which only DistillationModule takes "
            "out of networks; use HiddenStateMSELoss with layers"
        )
    if not loss.requires_teacher and not has_labels:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares with labels; say where they are in the batch with "
            "labels=<key or index>"
        )
    if loss.requires_augmented:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares with texts that were changed, which only DistillationModule "
            "makes; leave it out"
        )
    if loss.requires and not has_layers:
        raise ValueError(
            f"{field}: {type(loss).__name__} compares layers; name pairs of them with layers={{<path in the student>: "
            "<path in the teacher>}"
        )
    if getattr(loss, "layer_map", None) is not None:
        raise ValueError(f"{field}.layer_map: the pairs are those of DistillationCallback.layers; leave it out")
