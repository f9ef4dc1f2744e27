"""Add the parameters of losses to the optimizer of a module."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.core.optimizer import _MockOptimizer
from torch import nn

from lightning_kd.callbacks.base import find_callbacks


def add_parameters(trainer: Trainer, parameters: list[nn.Parameter]) -> None:
    """Add parameters to the parameter group with the highest learning rate, before the first step.

    A new group would break schedulers that have one entry per group (``LambdaLR`` with a list of functions,
    ``OneCycleLR`` with a list of peaks). In an existing group the parameters follow its schedule.

    Args:
        trainer: The trainer, whose first optimizer receives the parameters.
        parameters: Parameters to add.

    Raises:
        ValueError: If there is no optimizer, if it is sharded or cannot initialize its state for the parameters, or if
            a callback manages the parameter groups.
    """
    if not parameters:
        return
    for callback in find_callbacks(trainer, BaseFinetuning):
        raise ValueError(
            f"DistillationCallback.losses: {type(callback).__name__} expects only the module's parameters in the "
            "optimizer, but these losses have projections; compare layers of equal width or logits, or remove the "
            "callback"
        )
    optimizer = trainer.optimizers[0]
    name = type(optimizer).__name__
    if isinstance(optimizer, _MockOptimizer):  # Lightning 2.6: stands for configure_optimizers returning None
        raise ValueError(
            "DistillationCallback.losses: configure_optimizers returns no optimizer to train the projections; return "
            "one, or compare layers of equal width"
        )
    if hasattr(optimizer, "consolidate_state_dict"):
        raise ValueError(
            f"DistillationCallback.losses: {name} shards its parameters when it is built, so projections cannot be "
            "added; use an optimizer that does not shard, or losses without projections"
        )
    # lr is None where the optimizer computes it, as Adafactor in transformers can
    rates = [group.get("initial_lr", group.get("lr")) or 0 for group in optimizer.param_groups]
    group = max(zip(rates, optimizer.param_groups, strict=True), key=lambda pair: float(pair[0]))[1]
    if optimizer.state:  # Adagrad initializes the state of its parameters in its constructor
        settings: dict[str, Any] = {option: group[option] for option in optimizer.defaults}
        try:
            optimizer.state.update(type(optimizer)(parameters, **settings).state)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"DistillationCallback.losses: {name} cannot be built for the projections ({error}); use another "
                "optimizer, or losses without projections"
            ) from error
    group["params"].extend(parameters)
