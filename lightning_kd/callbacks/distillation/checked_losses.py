"""Losses that the callback can give what they need."""

from collections.abc import Mapping
from typing import Any

from lightning_kd.losses.base import DistillationLoss


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
