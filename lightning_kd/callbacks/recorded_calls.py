"""The calls of a network: recorded while somebody else's code makes them, and repeated on another network."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_kd import models


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        args: What the network was called with.
        kwargs: What it was called with by name.
        names: What its ``forward`` calls ``args``; fewer where it takes any number.
        output: What it returned.
        layers: What the recorded layers inside it returned, by path; the last time, where one ran several times.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: list[str]
    output: Any
    layers: dict[str, Any]

    @property
    def by_name(self) -> dict[str, Any]:
        """Its arguments, as far as they have names."""
        return {**dict(zip(self.names, self.args, strict=False)), **self.kwargs}


def original(network: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` has wrapped, or the network itself."""
    wrapped: nn.Module = getattr(network, "_orig_mod", network)
    return wrapped


@contextmanager
def recorded_calls(network: nn.Module, layers: Iterable[str] = ()) -> Iterator[list[Call]]:
    """Within the context each call of the network is added to the list; afterwards no trace is left in the network.

    Args:
        network: Plain, or compiled by ``torch.compile(network)`` or ``network.compile()``.
        layers: Paths of modules inside it.
    """
    calls: list[Call] = []
    seen: dict[str, Any] = {}
    parameters = inspect.signature(original(network).forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]

    def finish(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Call(args, kwargs, names[: len(args)], output, dict(seen)))
        seen.clear()

    def keep(path: str, output: Any) -> None:
        seen[path] = output

    handles = [
        original(network).get_submodule(path).register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for path in layers
    ]
    compiled = network._compiled_call_impl
    if compiled is None:
        handles.append(
            network.register_forward_hook(
                lambda _, args, kwargs, output: finish(args, kwargs, output), with_kwargs=True
            )
        )
    else:  # network.compile() has compiled the call with its hooks; a new one would not be seen

        def recording(*args: Any, **kwargs: Any) -> Any:
            output = compiled(*args, **kwargs)
            finish(args, kwargs, output)
            return output

        network._compiled_call_impl = recording
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        if compiled is not None:
            network._compiled_call_impl = compiled


def repeat(call: Call, network: nn.Module) -> Any:
    """Call a network as another one was called.

    Arguments go by name where the network calls the first of them as the other one does, else by position. Left out
    are those that it does not take, and labels, with which it would compute a loss of its own. Numbers come in its
    precision, unless autocast sees to that.
    """
    takes = inspect.signature(original(network).forward).parameters
    use_names = len(call.names) == len(call.args) and all(name in takes for name in call.names[:1])
    args, kwargs = ((), call.by_name) if use_names else (call.args, call.kwargs)
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()) and not hasattr(network, "config"):
        names = [name for name in kwargs if name not in models.LABELS]
    else:
        names = models.input_names(network, kwargs)
    kwargs = {name: kwargs[name] for name in names}
    weights = next((weights for weights in network.parameters() if weights.is_floating_point()), None)
    if weights is not None and not torch.is_autocast_enabled(weights.device.type):
        args, kwargs = apply_to_collection((args, kwargs), Tensor, partial(_in_precision_of, weights))
    return network(*args, **kwargs)


def _in_precision_of(weights: Tensor, value: Tensor) -> Tensor:
    return value.to(weights.dtype) if value.is_floating_point() else value
