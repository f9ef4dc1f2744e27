"""The losses of a ``DistillationCallback`` during one fit."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_kd.callbacks.distillation.outputs import Layer
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.outputs import ModelDims, Outputs
from lightning_kd.training.loss_schedules import LossSchedules, apply_schedules

FIELD = "DistillationCallback.losses"


class LossTerms:
    """Copies of the losses: one of each loss on logits, and one per pair of layers of each loss on hidden states.

    Args:
        losses: The losses by name.
        schedules: Their arguments that change over the run.
        student: Layers of the student that are compared.
        teacher: The teacher's layer for each of them.

    Attributes:
        total_steps: Optimizer steps of the run, for schedules.

    Raises:
        ValueError: If a loss does not support the widths of a pair.
    """

    def __init__(
        self,
        losses: Mapping[str, DistillationLoss],
        schedules: LossSchedules,
        student: list[Layer],
        teacher: list[Layer],
    ) -> None:
        self.schedules = schedules
        self.total_steps = 0.0
        self.copies: dict[str, list[DistillationLoss]] = {}
        pairs = list(zip(student, teacher, strict=True))
        for name, loss in losses.items():
            self.copies[name] = [copy.deepcopy(loss) for _ in (pairs if loss.requires else [None])]
            if loss.requires:
                for loss_copy, (student_layer, teacher_layer) in zip(self.copies[name], pairs, strict=True):
                    loss_copy.setup(ModelDims(1, student_layer.width, 1), ModelDims(1, teacher_layer.width, 1))
        self.signature = "; ".join(
            [f"{name}: {type(loss).__name__}" for name, loss in losses.items()]
            + [f"{a.path} (width {a.width}) with {b.path} (width {b.width})" for a, b in pairs]
        )
        self._heads_checked = False
        self._modules = nn.ModuleList(loss for copies in self.copies.values() for loss in copies)

    @property
    def require_teacher(self) -> bool:
        """True if an active loss reads the teacher's outputs."""
        return any(self.copies[name][0].requires_teacher for name in self._active_names())

    def _active_names(self) -> list[str]:
        """Return all losses but teacher losses whose scheduled weight is 0."""
        return [
            name
            for name, (loss, *_) in self.copies.items()
            if loss.weight or not loss.requires_teacher or "weight" not in self.schedules.get(name, {})
        ]

    def weight(self, name: str) -> float:
        """Return the current weight of a loss."""
        return self.copies[name][0].weight

    def update_schedules(self, step: int) -> dict[str, float]:
        """Set the scheduled arguments of the losses to their values.

        Args:
            step: Number of optimizer steps taken.

        Returns:
            The values by ``<loss name>_<argument>``.
        """
        values: dict[str, float] = {}
        for name, schedules in self.schedules.items():
            for loss in self.copies[name]:
                values |= apply_schedules({name: schedules}, {name: loss}, step / self.total_steps)
        return values

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move and cast the parameters of the losses."""
        self._modules.to(device, dtype)

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters of the losses."""
        return [parameter for parameter in self._modules.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each copy by loss name, and a signature of losses and layers."""
        states = {name: [dict(loss.state_dict()) for loss in copies] for name, copies in self.copies.items()}
        return {"losses": states, "signature": self.signature}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a ``state_dict``.

        Raises:
            ValueError: If it has other losses or layers, or another order, which is the order in the optimizer.
        """
        if state["signature"] != self.signature:
            raise ValueError(
                f"{FIELD}: the checkpoint was saved with {state['signature']}, but this run has {self.signature}; "
                "resume with the same losses and layers in the same order"
            )
        for name, copies in self.copies.items():
            for loss, loss_state in zip(copies, state["losses"][name], strict=True):
                loss.load_state_dict(loss_state)

    def check_heads(self, student: Outputs) -> None:
        """Check in the first step that the heads have enough classes; warn if a part of a loss is constant.

        Raises:
            ValueError: If a loss is constant, as the softmax of a single logit; the message names the loss.
        """
        if self._heads_checked:
            return
        self._heads_checked = True
        single_logit_head = next((name for name, head in student.heads.items() if head.logits.shape[-1] == 1), None)
        for name, copies in self.copies.items():
            if single_logit_head is not None and copies[0].requires_classes:
                raise ValueError(
                    f"{FIELD}.{name}: {type(copies[0]).__name__} needs at least two classes, but {single_logit_head!r} "
                    "has one logit; use LogitMSELoss, or a model with two classes"
                )
            for head in student.heads.values():
                if warning := copies[0].check_num_classes(head.logits.shape[-1], f"{FIELD}.{name}"):
                    rank_zero_warn(warning)

    def __call__(self, student: Outputs, teacher: Outputs | None) -> dict[str, Tensor]:
        """Compute the active losses, not weighted; losses on hidden states are averaged over the pairs of layers.

        Args:
            student: Outputs of the student.
            teacher: Outputs of the teacher; None only if ``require_teacher`` is False.
        """
        return {name: self._compute(self.copies[name], student, teacher) for name in self._active_names()}

    @staticmethod
    def _compute(copies: list[DistillationLoss], student: Outputs, teacher: Outputs | None) -> Tensor:
        if not copies[0].requires:
            value: Tensor = copies[0](student, teacher)
            return value
        assert teacher is not None  # losses on hidden states require a teacher
        assert student.hidden_states is not None
        assert teacher.hidden_states is not None
        values = []
        for loss, a, b in zip(copies, student.hidden_states, teacher.hidden_states, strict=True):
            if a.shape[:2] != b.shape[:2]:
                raise ValueError(
                    f"DistillationCallback.layers: the student's layer has {a.shape[1]} positions and the teacher's "
                    f"{b.shape[1]}; compare layers of equal resolution"
                )
            mask = student.token_mask
            mask = mask if mask is not None and mask.shape == a.shape[:2] else None
            values.append(
                loss(replace(student, hidden_states=(a,), token_mask=mask), replace(teacher, hidden_states=(b,)))
            )
        return torch.stack(values).mean()


def check_losses(losses: Any, has_layers: bool, has_labels: bool) -> None:
    """Raise if the losses are invalid or need something that the callback cannot provide.

    Args:
        losses: The losses by name.
        has_layers: True if pairs of layers are named.
        has_labels: True if the labels are named.

    Raises:
        ValueError: If a loss is invalid; the message names it.
    """
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(f"{FIELD}: must be a mapping such as {{'soft': SoftTargetLoss()}}, got {losses!r:.60}")
    for name, loss in losses.items():
        field, kind = f"{FIELD}.{name}", type(loss).__name__
        if not isinstance(loss, DistillationLoss):
            raise ValueError(f"{field}: {kind} is not a DistillationLoss; use or extend one of lightning_kd.losses")
        if name in ("task_loss", "loss"):
            raise ValueError(f"{field}: the callback logs a value of this name; rename the loss")
        if "qkv" in loss.requires:
            raise ValueError(
                f"{field}: {kind} needs queries, keys and values, which only DistillationModule extracts; use "
                "HiddenStateMSELoss with layers"
            )
        if not loss.requires_teacher and not has_labels:
            raise ValueError(f"{field}: {kind} needs labels; set labels=<key or index in the batch>")
        if loss.requires_augmented:
            raise ValueError(f"{field}: {kind} needs augmented texts, which only DistillationModule has; remove it")
        if loss.requires and not has_layers:
            raise ValueError(
                f"{field}: {kind} compares layers; set layers={{<path in the student>: <path in the teacher>}}"
            )
        if getattr(loss, "layer_map", None) is not None:
            raise ValueError(f"{field}.layer_map: not used here; set DistillationCallback.layers instead")
