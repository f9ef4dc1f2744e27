"""The default optimizer, its parameter groups, and its state by parameter name."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

DEFAULT_OPTIMIZER: OptimizerFactory = partial(AdamW, lr=5e-5)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return the trainable parameters as two groups, the second one without weight decay.

    The second group has the biases and the weights of norms: parameters with fewer than two dimensions, and those of
    modules named as a bias, such as MPNet's and T5's ``relative_attention_bias``.
    """
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            has_decay = parameter.ndim >= 2 and not name.removesuffix(".weight").endswith("bias")
            groups[0 if has_decay else 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def optimizer_state_by_name(optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """Return the state of an optimizer with parameter names instead of indices.

    Indices follow the order of the parameter groups, but sharded strategies interpret them in the order of the module.

    Args:
        optimizer: The optimizer.
        module: The module that has the optimizer's parameters.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    state = optimizer.state_dict()
    by_index: dict[int, str] = {}
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        param_names = [names[id(parameter)] for parameter in group["params"]]
        by_index |= dict(zip(saved["params"], param_names, strict=True))
        saved["params"] = param_names
    return {**state, "state": {by_index[index]: values for index, values in state["state"].items()}}
