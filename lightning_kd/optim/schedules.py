"""Parameter groups and learning rate schedules."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

DEFAULT_OPTIMIZER: OptimizerFactory = partial(AdamW, lr=5e-5)

LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""Those schedules of ``transformers.get_scheduler`` that follow from the number of steps and the warm-up alone."""


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters in those with weight decay and those without: biases and norms.

    Biases and the weights of norms are the parameters with less than two dimensions.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2]},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimizer_state_by_name(optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """The optimiser's state under the names of the parameters in place of their numbers.

    Numbers follow the order of the groups, and strategies that shard take them for the order of the module.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    state = optimizer.state_dict()
    numbered: dict[int, str] = {}
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        param_names = [names[id(parameter)] for parameter in group["params"]]
        numbered |= dict(zip(saved["params"], param_names, strict=True))
        saved["params"] = param_names
    return {**state, "state": {numbered[number]: values for number, values in state["state"].items()}}


def check_lr_scheduler(name: str | None, warmup_ratio: float) -> None:
    """Refuse a schedule that cannot be built.

    Raises:
        ValueError: If the name is none of ``LR_SCHEDULERS``, or ``warmup_ratio`` is outside [0, 1] or would be ignored.
    """
    if name is not None and name not in LR_SCHEDULERS:
        raise ValueError(f"lr_scheduler: unknown schedule {name!r}; use null or one of {', '.join(LR_SCHEDULERS)}")
    if not 0 <= warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio: must be in [0, 1], got {warmup_ratio}")
    if warmup_ratio and name in (None, "constant"):
        raise ValueError(
            f"warmup_ratio: lr_scheduler {name or 'null'} has no warm-up, got {warmup_ratio}; use constant_with_warmup"
        )


def require_total_steps(total_steps: float, feature: str, remedy: str) -> int:
    """The number of optimiser steps of a run.

    Args:
        total_steps: As Lightning estimates it.
        feature: What asks for it, for the message.
        remedy: How to do without it, for the message.

    Raises:
        ValueError: If it is infinite or unknown.
    """
    if not 0 < total_steps < float("inf"):  # -1: the loader has no length
        raise ValueError(
            f"{feature} needs the number of steps, and the run has no known end; set trainer.max_steps, or "
            f"trainer.max_epochs where the data have a length, or {remedy}"
        )
    return int(total_steps)


def build_lr_scheduler(name: str, optimizer: Optimizer, warmup_ratio: float, total_steps: float) -> LRScheduler:
    """Build a schedule over the optimiser steps of a run.

    Args:
        name: One of ``LR_SCHEDULERS``.
        optimizer: Its learning rate is the peak.
        warmup_ratio: Share of the steps in which the rate rises linearly from 0, in [0, 1].
        total_steps: Number of optimiser steps.

    Raises:
        ValueError: If the number of steps is infinite or unknown.
    """
    steps = require_total_steps(total_steps, f"lr_scheduler: {name!r}", "lr_scheduler to null")
    # at least one step after the warm-up: transformers' polynomial divides by their number
    warmup_steps = min(round(warmup_ratio * steps), steps - 1)
    scheduler: LRScheduler = get_scheduler(name, optimizer, warmup_steps, steps)
    return scheduler
