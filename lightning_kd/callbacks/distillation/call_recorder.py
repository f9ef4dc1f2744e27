"""The calls of a network: recorded while somebody else's code makes them, and repeated on another network."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_kd import models
from lightning_kd.callbacks.distillation.kept_values import Versions, copied, first_tensor


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        args: What the network was called with.
        kwargs: What it was called with by name.
        names: What its ``forward`` calls ``args``; fewer where it takes any number.
        output: What it returned.
        layers: What the recorded layers inside it returned, by path; the last time, where one ran several times.
        takes: All names that its ``forward`` knows.
        inputs: Whether the arguments are still those it was called with.
        outputs: Whether the output still is what it returned.
        tokens: Which positions of its output count, (B, L); None = all.
        classes_last: Whether in logits of three dimensions the classes are known to come last.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: list[str]
    output: Any
    layers: dict[str, Any]
    takes: frozenset[str] = frozenset()
    inputs: Versions = field(default_factory=Versions)
    outputs: Versions = field(default_factory=Versions)
    tokens: Tensor | None = None
    classes_last: bool = False

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
    begun: list[tuple[tuple[Any, ...], dict[str, Any], Versions]] = []
    seen: dict[str, Any] = {}
    parameters = inspect.signature(original(network).forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    takes = frozenset(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept = {name: copied(value) for name, value in kwargs.items()}
        begun.append((tuple(copied(value) for value in args), kept, Versions.of((args, kwargs))))

    def finish(output: Any) -> None:
        args, kwargs, inputs = begun.pop()
        kept = copied(output)
        calls.append(Call(args, kwargs, names[: len(args)], kept, dict(seen), takes, inputs, Versions.of(kept)))
        seen.clear()

    def keep(path: str, output: Any) -> None:
        states = first_tensor(output)
        seen[path] = None if states is None else states.clone()  # nn.ReLU(inplace=True) may come next

    handles = [
        original(network).get_submodule(path).register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for path in layers
    ]
    compiled = network._compiled_call_impl
    if compiled is None:
        handles.append(network.register_forward_pre_hook(lambda _, args, kwargs: begin(args, kwargs), with_kwargs=True))
        handles.append(network.register_forward_hook(lambda _, __, output: finish(output)))
    else:  # network.compile() has compiled the call with its hooks; a new one would not be seen

        def recording(*args: Any, **kwargs: Any) -> Any:
            begin(args, kwargs)
            output = compiled(*args, **kwargs)
            finish(output)
            return output

        network._compiled_call_impl = recording
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        if compiled is not None:
            network._compiled_call_impl = compiled


OPTIONAL = models.LABELS | models.TOKEN_TYPES
"""Arguments without which a network does not see other inputs, or not in a way that matters."""


def repeat(call: Call, network: nn.Module) -> Any:
    """Call a network as another one was called.

    Arguments go by name where the network calls the first of them as the other one does, else by position. Left out
    are options that it does not take, labels, with which it would compute a loss of its own, and a cache of keys and
    values, which nobody reads. Numbers come in its precision, unless autocast sees to that.

    Raises:
        ValueError: If it does not take a tensor that the other one was given, or that was changed in place meanwhile.
    """
    call.inputs.check(
        "an argument of the student", "change a copy of it (x = x / 255 instead of x /= 255), in the forward, too"
    )
    takes = inspect.signature(original(network).forward).parameters
    use_names = len(call.names) == len(call.args) and all(name in takes for name in call.names[:1])
    args, kwargs = ((), call.by_name) if use_names else (call.args, call.kwargs)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    if open_ended and not hasattr(network, "config"):
        names = [name for name in kwargs if name not in models.LABELS]
    else:
        names = models.input_names(network, kwargs)
    for name in kwargs.keys() & call.takes - OPTIONAL - set(names):
        if isinstance(kwargs[name], Tensor):
            raise ValueError(
                f"DistillationCallback.teacher: the student is given the tensor {name!r}, which "
                f"{type(original(network)).__name__} does not take (it takes {', '.join(takes)}); put the teacher in a "
                "module whose forward calls its arguments as the student's does"
            )
    kwargs = {name: kwargs[name] for name in names}
    if "use_cache" in takes and kwargs.get("past_key_values") is None and len(args) <= list(takes).index("use_cache"):
        kwargs["use_cache"] = False
    weights = next((weights for weights in network.parameters() if weights.is_floating_point()), None)
    if weights is not None and not torch.is_autocast_enabled(weights.device.type):
        args, kwargs = apply_to_collection((args, kwargs), Tensor, partial(_in_precision_of, weights))
    return network(*args, **kwargs)


def _in_precision_of(weights: Tensor, value: Tensor) -> Tensor:
    return value.to(weights.dtype) if value.is_floating_point() else value
