"""Adapter between named and positional inputs, for exporters that do not support names."""

from collections.abc import Iterator
from contextlib import contextmanager
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


def fill_missing_inputs(inputs: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return the inputs of a graph; missing token types are 0, as in transformers.

    Args:
        inputs: Tensors by name.
        names: Names of the graph's inputs.

    Raises:
        ValueError: If any other input is missing.
    """
    if "token_type_ids" in names and "token_type_ids" not in inputs and "input_ids" in inputs:
        inputs = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    if missing := [name for name in names if name not in inputs]:
        raise ValueError(f"inputs: {', '.join(missing)} missing; pass all inputs of the graph")
    return {name: inputs[name] for name in names}
