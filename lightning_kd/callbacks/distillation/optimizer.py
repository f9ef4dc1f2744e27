"""Parameters that join an optimiser which somebody else has built."""

from typing import Any

from lightning.pytorch.core.optimizer import _MockOptimizer
from torch import nn
from torch.optim import Optimizer


def add_parameters(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Add parameters to the group with the highest learning rate, before the first step.

    No new group: schedules were made for those that there are (``LambdaLR`` with a function for each, ``OneCycleLR``
    with a peak for each), and this way the parameters follow the schedule of their group.

    Args:
        optimizer: As ``configure_optimizers`` has built it.
        parameters: What to add.

    Raises:
        ValueError: If there is no optimiser, it divides its parameters among devices, or makes their state in a way of
            its own.
    """
    if not parameters:
        return
    if isinstance(optimizer, _MockOptimizer):
        raise ValueError(
            "DistillationCallback.losses: have projections, and configure_optimizers returns no optimiser that could "
            "train them; return one, or compare layers of one width"
        )
    name = type(optimizer).__name__
    if hasattr(optimizer, "consolidate_state_dict"):
        raise ValueError(
            f"DistillationCallback: {name} divides its parameters among the devices when it is made, so those of the "
            "losses cannot join it; take an optimiser that does not, or losses without a projection"
        )
    # without a rate where the optimiser chooses it itself, as Adafactor of transformers may
    rates = [group.get("initial_lr", group.get("lr")) for group in optimizer.param_groups]
    group = max(zip(rates, optimizer.param_groups, strict=True), key=lambda pair: float(pair[0] or 0))[1]
    if optimizer.state:  # Adagrad makes the state of its parameters in its constructor
        settings: dict[str, Any] = {option: group[option] for option in optimizer.defaults}
        try:
            new_optimizer = type(optimizer)(parameters, **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"DistillationCallback: {name} cannot be made for the parameters of the losses ({error}); take another "
                "optimiser, or losses without a projection"
            ) from error
        optimizer.state.update(new_optimizer.state)
    group["params"].extend(parameters)
