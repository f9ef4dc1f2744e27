"""Adapters between named and positional inputs, for exporters and graphs that do not support names."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lightning_kd.models import get_attn_implementation, input_names
from lightning_kd.outputs import Batch


@contextmanager
def eager_attention(model: "transformers.PreTrainedModel") -> Iterator[None]:
    """Use eager attention within the context.

    Compilers support its operators best, and an ONNX graph has a fifth fewer nodes than with SDPA.
    """
    before = get_attn_implementation(model)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class PositionalModel(nn.Module):
    """Calls a model by keyword with inputs given by position, and returns its outputs as a tuple.

    The order of a tokenizer's outputs differs from that of a model's arguments, so tracing by position would silently
    swap two inputs of the same shape.

    Args:
        model: The model in eval mode.
        batch: A batch whose keys determine the inputs.

    Attributes:
        input_names: Names of the inputs, in the order of the model's ``forward``.
        output_names: Names of the outputs, such as ``logits``, or ``start_logits`` and ``end_logits``.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.input_names = input_names(model, batch)
        with torch.no_grad():
            self.output_names = list(model(**{name: batch[name] for name in self.input_names}).keys())
        self.eval()

    def example_inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the inputs of a batch by position."""
        return tuple(batch[name] for name in self.input_names)

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Return the outputs in the order of ``output_names``."""
        result = self.model(**dict(zip(self.input_names, inputs, strict=True)))
        return tuple(result[name] for name in self.output_names)


class GraphModel(nn.Module, ABC):
    """Base class of the models that run an exported graph on CPU tensors given by name.

    A subclass sets the attributes and implements ``run_graph``.

    Attributes:
        config: Configuration of the exported model.
        input_names: Names of the graph's inputs, in order.
        output_names: Names of its outputs, in order.
        max_length: Maximum number of tokens; None if unlimited.
    """

    config: Any
    input_names: list[str]
    output_names: list[str]
    max_length: int | None

    @abstractmethod
    def run_graph(self, inputs: list[Tensor]) -> Iterable[Tensor]:
        """Return the outputs of the graph.

        Args:
            inputs: The inputs of the graph, each (N, L).
        """

    def forward(self, **inputs: Tensor) -> Any:
        """Return the graph's outputs as attributes; missing token types are 0, as in transformers.

        Args:
            inputs: CPU tensors by name, (N, L).

        Raises:
            ValueError: If an input is too long or missing.
        """
        if "input_ids" in inputs:
            inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
        if missing := [name for name in self.input_names if name not in inputs]:
            raise ValueError(f"inputs: {', '.join(missing)} missing; pass all inputs of the graph")
        length = inputs[self.input_names[0]].shape[1]
        if self.max_length is not None and length > self.max_length:
            raise ValueError(f"input_ids: {length} tokens exceed the graph's {self.max_length}; truncate them")
        outputs = self.run_graph([inputs[name] for name in self.input_names])
        return SimpleNamespace(**dict(zip(self.output_names, outputs, strict=True)))
