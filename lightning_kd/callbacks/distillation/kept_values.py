"""Values that somebody else's code goes on working with, kept as they were."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
