"""The calls of a network: recorded while somebody else's code makes them, and repeated on another network."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_kd import models


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from iter_tensors(part)


def shallow_copy(value: Any) -> Any:
    """A mapping or list of its own, with the same entries; anything else as it is."""
    return copy.copy(value) if isinstance(value, (Mapping, list)) else value


def first_tensor(output: Any) -> Tensor | None:
    """What a layer returned: a tensor, or the first in a tuple or mapping."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif isinstance(output, tuple):
        output = next((part for part in output if isinstance(part, Tensor)), None)
    return output if isinstance(output, Tensor) else None


@dataclass(frozen=True)
class TensorVersions:
    """How often tensors had been written to when they were seen, by PyTorch's own count.

    Attributes:
        versions: The tensors, each with its count.
    """

    versions: tuple[tuple[Tensor, int], ...] = ()

    @classmethod
    def record(cls, value: Any) -> "TensorVersions":
        """Those of all tensors in a value; none within a graph that is being compiled, and of inference tensors."""
        if torch.compiler.is_compiling():
            return cls()
        return cls(tuple((tensor, tensor._version) for tensor in iter_tensors(value) if not tensor.is_inference()))

    def check_unchanged(self, description: str, remedy: str) -> None:
        """Refuse what has been written to since.

        Raises:
            ValueError: Names it.
        """
        for tensor, version in self.versions:
            if tensor._version != version:
                raise ValueError(
                    f"DistillationCallback: {description}, a tensor of the shape {tuple(tensor.shape)}, was changed "
                    f"in place "
                    f"before the teacher came to it; {remedy}"
                )


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        args: What the network was called with.
        kwargs: What it was called with by name.
        argument_names: What its ``forward`` calls ``args``; fewer where it takes any number.
        output: What it returned.
        layers: What the recorded layers inside it returned, by path; the last time, where one ran several times.
        parameter_names: All names that its ``forward`` knows.
        input_versions: Whether the arguments are still those it was called with.
        output_versions: Whether the output still is what it returned.
        token_mask: Which positions of its output count, (B, L); None = all.
        classes_last: Whether in logits of three dimensions the classes are known to come last.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    argument_names: list[str]
    output: Any
    layers: dict[str, Any]
    parameter_names: frozenset[str] = frozenset()
    input_versions: TensorVersions = field(default_factory=TensorVersions)
    output_versions: TensorVersions = field(default_factory=TensorVersions)
    token_mask: Tensor | None = None
    classes_last: bool = False

    @property
    def named_arguments(self) -> dict[str, Any]:
        """Its arguments, as far as they have names."""
        return {**dict(zip(self.argument_names, self.args, strict=False)), **self.kwargs}


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` has wrapped, or the network itself."""
    wrapped: nn.Module = getattr(model, "_orig_mod", model)
    return wrapped


@contextmanager
def record_calls(model: nn.Module, layers: Iterable[str] = ()) -> Iterator[list[Call]]:
    """Within the context each call of the network is added to the list; afterwards no trace is left in the network.

    Args:
        model: Plain, or compiled by ``torch.compile(model)`` or ``model.compile()``.
        layers: Paths of modules inside it.
    """
    calls: list[Call] = []
    pending: list[tuple[tuple[Any, ...], dict[str, Any], TensorVersions]] = []
    layer_outputs: dict[str, Any] = {}
    parameters = inspect.signature(unwrap_compiled(model).forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    parameter_names = frozenset(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        copied = {name: shallow_copy(value) for name, value in kwargs.items()}
        pending.append((tuple(shallow_copy(value) for value in args), copied, TensorVersions.record((args, kwargs))))

    def finish(output: Any) -> None:
        args, kwargs, inputs = pending.pop()
        copied = shallow_copy(output)
        calls.append(
            Call(
                args,
                kwargs,
                names[: len(args)],
                copied,
                dict(layer_outputs),
                parameter_names,
                inputs,
                TensorVersions.record(copied),
            )
        )
        layer_outputs.clear()

    def store_output(path: str, output: Any) -> None:
        states = first_tensor(output)
        layer_outputs[path] = None if states is None else states.clone()  # nn.ReLU(inplace=True) may come next

    handles = [
        unwrap_compiled(model)
        .get_submodule(path)
        .register_forward_hook(lambda _, __, output, path=path: store_output(path, output))
        for path in layers
    ]
    compiled = model._compiled_call_impl
    if compiled is None:
        handles.append(model.register_forward_pre_hook(lambda _, args, kwargs: begin(args, kwargs), with_kwargs=True))
        handles.append(model.register_forward_hook(lambda _, __, output: finish(output)))
    else:  # network.compile() has compiled the call with its hooks; a new one would not be seen

        def recorded_call(*args: Any, **kwargs: Any) -> Any:
            begin(args, kwargs)
            output = compiled(*args, **kwargs)
            finish(output)
            return output

        model._compiled_call_impl = recorded_call
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        if compiled is not None:
            model._compiled_call_impl = compiled


LABEL_NAMES = {"labels", "start_positions", "end_positions"}
"""Labels in the signatures of transformers, with which a model computes a loss."""

OPTIONAL_INPUTS = LABEL_NAMES | {"token_type_ids"}
"""Arguments without which a network does not see other inputs, or not in a way that matters."""


def replay_call(call: Call, model: nn.Module) -> Any:
    """Call a network as another one was called.

    Arguments go by name where the network calls the first of them as the other one does, else by position. Left out
    are options that it does not take, labels, with which it would compute a loss of its own, and a cache of keys and
    values, which nobody reads. Numbers come in its precision, unless autocast sees to that.

    Raises:
        ValueError: If it does not take a tensor that the other one was given, or that was changed in place meanwhile.
    """
    call.input_versions.check_unchanged(
        "an argument of the student", "change a copy of it (x = x / 255 instead of x /= 255), in the forward, too"
    )
    parameters = inspect.signature(unwrap_compiled(model).forward).parameters
    use_names = len(call.argument_names) == len(call.args) and all(
        name in parameters for name in call.argument_names[:1]
    )
    args, kwargs = ((), call.named_arguments) if use_names else (call.args, call.kwargs)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if accepts_any and not hasattr(model, "config"):
        names = [name for name in kwargs if name not in LABEL_NAMES]
    else:
        names = models.input_names(model, kwargs)
    for name in kwargs.keys() & call.parameter_names - OPTIONAL_INPUTS - set(names):
        if isinstance(kwargs[name], Tensor):
            raise ValueError(
                f"DistillationCallback.teacher: the student is given the tensor {name!r}, which "
                f"{type(unwrap_compiled(model)).__name__} does not take (it takes {', '.join(parameters)}); put the "
                f"teacher in a "
                "module whose forward calls its arguments as the student's does"
            )
    kwargs = {name: kwargs[name] for name in names}
    if (
        "use_cache" in parameters
        and kwargs.get("past_key_values") is None
        and len(args) <= list(parameters).index("use_cache")
    ):
        kwargs["use_cache"] = False
    weights = next((weights for weights in model.parameters() if weights.is_floating_point()), None)
    if weights is not None and not torch.is_autocast_enabled(weights.device.type):
        args, kwargs = apply_to_collection((args, kwargs), Tensor, partial(_cast_like, weights))
    return model(*args, **kwargs)


def _cast_like(weights: Tensor, value: Tensor) -> Tensor:
    return value.to(weights.dtype) if value.is_floating_point() else value
