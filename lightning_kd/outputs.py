"""The vocabulary the other modules share: what a batch is and what a network returned for it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Batch = dict[str, Any]
"""A collated batch: tensors of B rows, and lists of B texts where scoring needs them.

Always has ``row_id`` (B,): the row's index in its split, or -1 for a row that only pads.
"""


TEACHER_INPUTS = "teacher_inputs"
"""Entry of a batch whose rows the teacher reads in another encoding: a list of batches, one for each network of the
teacher, or one for all of them."""


AUGMENTED = "augmented"
"""Entry of a batch to train on: a batch of other wordings of the same rows."""


def select_examples(batch: Batch, indices: list[int]) -> Batch:
    """Some rows of a batch."""
    selection: Batch = {}
    for name, value in batch.items():
        if name == TEACHER_INPUTS:
            selection[name] = [select_examples(inputs, indices) for inputs in value]
        elif name == AUGMENTED:
            selection[name] = select_examples(value, indices)
        else:
            selection[name] = value[indices] if isinstance(value, Tensor) else [value[index] for index in indices]
    return selection


def with_inputs(batch: Batch, inputs: Batch) -> Batch:
    """The batch as a network reads it that is given another encoding of the same rows."""
    input_keys = ("input_ids", "attention_mask", "token_type_ids", TEACHER_INPUTS, AUGMENTED)
    return {**{name: value for name, value in batch.items() if name not in input_keys}, **inputs}


@dataclass(frozen=True)
class Head:
    """One distribution per row that a network predicts.

    Attributes:
        logits: Scores before the softmax, (N, C).
        labels: Index of the true class, (N,), -100 where unknown; None for unlabelled rows.
        mask: Which classes count, (N, C), True = counts; None = all of them.
    """

    logits: Tensor
    labels: Tensor | None = None
    mask: Tensor | None = None

    @property
    def prediction(self) -> Tensor:
        """The class with the highest logit among those that count, (N,)."""
        logits = self.logits if self.mask is None else self.logits.masked_fill(~self.mask, -math.inf)
        return logits.argmax(dim=-1)


IGNORE_INDEX = -100
"""Label of what does not count, in data, losses and scores, as in PyTorch and transformers."""

Requirement = Literal["hidden_states", "qkv"]
"""What a loss may ask for beside the heads. Nothing is kept that no loss asks for."""


@dataclass(frozen=True)
class ModelDims:
    """The sizes of a network.

    Attributes:
        num_hidden_layers: Number of encoder layers.
        hidden_size: Width of the hidden states.
        num_attention_heads: Attention heads of a layer.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int


@dataclass(frozen=True)
class QKV:
    """The queries, keys and values of a layer, before they are cut into heads.

    Attributes:
        query: (B, L, H).
        key: (B, L, H).
        value: (B, L, H).
        num_attention_heads: Number of attention heads, which cut H into equal parts.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    num_attention_heads: int


@dataclass(frozen=True)
class Outputs:
    """What a network returned for a batch, cut into the heads of a task.

    Attributes:
        heads: The predicted distributions by name.
        token_mask: Which positions hold a token and no padding, (B, L), True = a token; None = all.
        hidden_states: The embeddings and the output of each layer, each (B, L, H), if a loss asked for them.
        qkv: The queries, keys and values of each layer, if a loss asked for them.
        augmented: What it returned for other wordings of the rows, if a loss asked for it.
    """

    heads: dict[str, Head]
    token_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    qkv: tuple[QKV, ...] | None = None
    augmented: "Outputs | None" = None

    @property
    def num_targets(self) -> int:
        """Number of rows of the first head."""
        return len(next(iter(self.heads.values())).logits)

    def zip_heads(self, other: "Outputs") -> Iterator[tuple[Head, Head]]:
        """Walk the heads of two networks side by side.

        Raises:
            ValueError: If the two do not have the same heads, or a head's logits differ in shape.
        """
        if self.heads.keys() != other.heads.keys():
            raise ValueError(f"student has the heads {sorted(self.heads)}, teacher {sorted(other.heads)}")
        for name, head in self.heads.items():
            if head.logits.shape != other.heads[name].logits.shape:
                raise ValueError(
                    f"head {name!r}: student logits have shape {tuple(head.logits.shape)}, "
                    f"teacher logits {tuple(other.heads[name].logits.shape)}; both must be (N, C)"
                )
            yield head, other.heads[name]
