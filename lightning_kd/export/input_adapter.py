"""A network that takes its inputs by position, for exporters that know no names."""

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
    """Within the context attention is computed as written in the papers.

    Compilers know these operators best, and an ONNX graph has a fifth fewer nodes than with PyTorch's fused one.
    """
    before = get_attn_implementation(model)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class PositionalModel(nn.Module):
    """Hands tensors given by position to a network by name, and returns its outputs as a tuple.

    Tokenizers give inputs in another order than networks take them: traced by position, two of the same shape would
    be swapped in silence.

    Args:
        model: In eval mode.
        batch: Entries that it is going to get; others are left out.

    Attributes:
        input_names: Names of the inputs, in the network's own order.
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
        """The inputs out of a batch, by position."""
        return tuple(batch[name] for name in self.input_names)

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The outputs, in the order of ``output_names``."""
        result = self.model(**dict(zip(self.input_names, inputs, strict=True)))
        return tuple(result[name] for name in self.output_names)


def fill_missing_inputs(inputs: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The inputs that a graph names; token types that a tokenizer leaves out are 0, as in transformers.

    Raises:
        ValueError: If another one is missing.
    """
    if "token_type_ids" in names and "token_type_ids" not in inputs and "input_ids" in inputs:
        inputs = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    if missing := [name for name in names if name not in inputs]:
        raise ValueError(f"the graph needs {', '.join(missing)} as well; give all of its inputs")
    return {name: inputs[name] for name in names}
