"""Record the calls of a model."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_kd.models import unwrap_compiled


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from iter_tensors(part)


def first_tensor(output: Any) -> Tensor | None:
    """Return the output itself, the first tensor of a tuple or the first value of a mapping; None without a tensor."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif isinstance(output, tuple):
        output = next((part for part in output if isinstance(part, Tensor)), None)
    return output if isinstance(output, Tensor) else None


TensorVersions = list[tuple[Tensor, int]]
"""Tensors, each with its version counter, which PyTorch increases with each in-place change."""


def record_versions(value: Any) -> TensorVersions:
    """Record all tensors in a value; none while compiling, and no inference tensors, which have no counter."""
    if torch.compiler.is_compiling():
        return []
    return [(tensor, tensor._version) for tensor in iter_tensors(value) if not tensor.is_inference()]


def check_unchanged(versions: TensorVersions, description: str, remedy: str) -> None:
    """Raise if a tensor has been changed in place since it was recorded.

    Args:
        versions: The recorded tensors.
        description: The tensors, for the message.
        remedy: How to avoid the change.

    Raises:
        ValueError: If one has; the message contains its shape.
    """
    for tensor, version in versions:
        if tensor._version != version:
            raise ValueError(
                f"DistillationCallback: {description} of shape {tuple(tensor.shape)} was changed in place "
                f"before the teacher or the losses read it; {remedy}"
            )


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        parameters: Signature of the model's ``forward``.
        input_versions: Version counters of the arguments at the call.
        output: Return value.
        layers: Outputs of the recorded layers by path; the last output of a layer that ran several times.
        output_versions: Version counters of the output.
        token_mask: Output positions to compare, (B, L), True = compare; None = all.
        classes_last: True if three-dimensional logits are known to be (B, L, C).
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, inspect.Parameter] = field(default_factory=dict)
    input_versions: TensorVersions = field(default_factory=list)
    output: Any = None
    layers: dict[str, Any] = field(default_factory=dict)
    output_versions: TensorVersions = field(default_factory=list)
    token_mask: Tensor | None = None
    classes_last: bool = False

    @property
    def positional_names(self) -> list[str]:
        """Names of ``args``; fewer than ``args`` where ``forward`` takes ``*args``."""
        names = [name for name, p in self.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        return names[: len(self.args)]

    @property
    def named_arguments(self) -> dict[str, Any]:
        """All arguments that have a name."""
        return {**dict(zip(self.positional_names, self.args, strict=False)), **self.kwargs}


def _shallow_copy(value: Any) -> Any:
    """Copy mappings and lists, whose entries the training step may pop."""
    return copy.copy(value) if isinstance(value, (Mapping, list)) else value


@contextmanager
def record_calls(model: nn.Module, layers: Iterable[str] = ()) -> Iterator[list[Call]]:
    """Append each call of the model to the yielded list; remove all hooks on exit.

    Args:
        model: Eager, or compiled by ``torch.compile(model)`` or ``model.compile()``.
        layers: Paths of submodules whose outputs are recorded.
    """
    calls: list[Call] = []
    pending: list[Call] = []
    layer_outputs: dict[str, Any] = {}
    parameters = inspect.signature(unwrap_compiled(model).forward).parameters

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        copied = {name: _shallow_copy(value) for name, value in kwargs.items()}
        versions = record_versions((args, kwargs))
        pending.append(Call(tuple(_shallow_copy(value) for value in args), copied, parameters, versions))

    def finish(output: Any) -> None:
        output, layers = _shallow_copy(output), dict(layer_outputs)
        calls.append(replace(pending.pop(), output=output, layers=layers, output_versions=record_versions(output)))
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
    else:  # model.compile() compiles the call with its hooks and ignores later ones (seen with torch 2.13)

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
