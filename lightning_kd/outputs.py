"""The contract between DataModules, tasks and losses: batches, heads and model outputs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

Batch = dict[str, Any]
"""A collated batch of B examples: tensors, and lists of B texts.

Keys with a fixed meaning:

- ``row_id`` (B,): index of the example in its split; -1 for padding examples of an evaluation batch.
- ``input_ids``, ``attention_mask``, ``token_type_ids`` (B, L): model inputs, as in transformers.
- the keys in ``Task.label_keys``: the labels.
- ``teacher_inputs``: a list of batches with another tokenization of the same examples, one per teacher model or one
  for all.
- ``augmented``: a batch with augmentations of the same examples, for ``ConsistencyLoss``.
- ``teacher_logits``: the teacher's logits by head, if found in the teacher cache.
"""

TEACHER_INPUTS = "teacher_inputs"
AUGMENTED = "augmented"
TEACHER_LOGITS = "teacher_logits"

IGNORE_INDEX = -100
"""Label of unknown targets, as in PyTorch and transformers."""


def select_examples(batch: Batch, indices: list[int]) -> Batch:
    """Return the batch of the examples at the given positions of a batch."""
    selected: Batch = {}
    for name, value in batch.items():
        if name == TEACHER_INPUTS:
            selected[name] = [select_examples(inputs, indices) for inputs in value]
        elif name == AUGMENTED:
            selected[name] = select_examples(value, indices)
        else:
            selected[name] = value[indices] if isinstance(value, Tensor) else [value[index] for index in indices]
    return selected


def with_inputs(batch: Batch, inputs: Batch) -> Batch:
    """Return the batch with its model inputs replaced by another tokenization of the same examples.

    Args:
        batch: The batch; its labels and texts are kept.
        inputs: The other tokenization, as in ``teacher_inputs`` or ``augmented``.
    """
    replaced = ("input_ids", "attention_mask", "token_type_ids", TEACHER_INPUTS, AUGMENTED)
    return {**{name: value for name, value in batch.items() if name not in replaced}, **inputs}


HeadKind = Literal["categorical", "binary", "value", "vector"]


@dataclass(frozen=True)
class Head:
    """Predictions of one head for N targets (examples, words or positions).

    Attributes:
        logits: Model outputs before any activation, (N, C).
        labels: For ``categorical`` heads class indices (N,), -100 = unknown; for ``binary`` heads (N, C) in {0, 1}, for
            ``value`` and ``vector`` heads floats (N, C), NaN = unknown. None = no labels.
        mask: Classes to include, (N, C), True = included; None = all.
        kind: ``categorical``: a softmax over C classes. ``binary``: C independent yes/no decisions (sigmoid).
            ``value``: C numbers. ``vector``: a C-dimensional embedding.
    """

    logits: Tensor
    labels: Tensor | None = None
    mask: Tensor | None = None
    kind: HeadKind = "categorical"

    @property
    def prediction(self) -> Tensor:
        """Most likely included class (N,); for ``binary`` heads booleans (N, C), for other kinds the logits (N, C)."""
        if self.kind == "binary":
            decisions = self.logits > 0
            return decisions if self.mask is None else decisions & self.mask
        if self.kind != "categorical":
            return self.logits
        logits = self.logits if self.mask is None else self.logits.masked_fill(~self.mask, -math.inf)
        return logits.argmax(dim=-1)

    @property
    def is_finite(self) -> Tensor:
        """Targets whose logits are finite, (N,); logits of masked classes may be infinite."""
        finite = self.logits.isfinite()
        return (finite if self.mask is None else finite | ~self.mask).all(dim=-1)

    def as_categorical(self) -> "Head":
        """Return the head as distributions over classes.

        A ``binary`` head becomes N·C targets with the two classes [0, logit], whose cross-entropy and KL divergence are
        those of the Bernoulli distributions.

        Raises:
            ValueError: If the head has no classes.
        """
        if self.kind == "categorical":
            return self
        if self.kind != "binary":
            raise ValueError(f"a head of kind {self.kind!r} has no classes")
        logits = self.logits.flatten()
        labels = None
        if self.labels is not None:
            flat_labels = self.labels.flatten().nan_to_num(IGNORE_INDEX)
            labels = torch.where(flat_labels >= 0, flat_labels, IGNORE_INDEX).long()
        mask = None if self.mask is None else self.mask.flatten().unsqueeze(-1).expand(-1, 2)
        return Head(torch.stack([torch.zeros_like(logits), logits], dim=-1), labels, mask)


def predictions_agree(first: Tensor, second: Tensor) -> Tensor:
    """Compare two ``Head.prediction`` elementwise; floating-point values agree within 1 %."""
    if first.is_floating_point():
        return torch.isclose(first, second, rtol=1e-2, atol=1e-2)
    return first == second


Requirement = Literal["hidden_states", "qkv"]
"""Intermediate outputs that a loss can request; others are not kept."""


@dataclass(frozen=True)
class ModelDims:
    """Dimensions of an encoder.

    Attributes:
        num_hidden_layers: Number of encoder layers.
        hidden_size: Width of the hidden states.
        num_attention_heads: Number of attention heads per layer.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int


@dataclass(frozen=True)
class QKV:
    """Queries, keys and values of a layer, before the split into attention heads.

    Attributes:
        query: (B, L, H).
        key: (B, L, H).
        value: (B, L, H).
        num_attention_heads: Number of attention heads of the layer; divides H.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    num_attention_heads: int


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model for a batch.

    Attributes:
        heads: The heads by name.
        token_mask: Positions that are not padding, (B, L), True = a token; None = all.
        hidden_states: Embeddings and outputs of all layers, each (B, L, H), if a loss requires them.
        qkv: Queries, keys and values of all layers, if a loss requires them.
        augmented: Outputs for the augmented examples, added by ``ConsistencyLoss``.
    """

    heads: dict[str, Head]
    token_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    qkv: tuple[QKV, ...] | None = None
    augmented: "Outputs | None" = None

    @property
    def num_targets(self) -> int:
        """Number of targets of the first head."""
        return len(next(iter(self.heads.values())).logits)

    @property
    def is_finite(self) -> bool:
        """True if all logits and hidden states are finite; logits of masked classes may be infinite."""
        logits_finite = all(bool(head.is_finite.all()) for head in self.heads.values())
        return logits_finite and all(bool(states.isfinite().all()) for states in self.hidden_states or ())

    def as_categorical(self, loss_name: str) -> "Outputs":
        """Return the outputs with ``Head.as_categorical`` of each head.

        Args:
            loss_name: Name of the loss that needs classes, for the message.

        Raises:
            ValueError: If a head has no classes.
        """
        for name, head in self.heads.items():
            if head.kind not in ("categorical", "binary"):
                raise ValueError(
                    f"{loss_name}: head {name!r} of kind {head.kind!r} has no classes; use LogitMSELoss instead"
                )
        return replace(self, heads={name: head.as_categorical() for name, head in self.heads.items()})

    def zip_heads(self, other: "Outputs") -> Iterator[tuple[Head, Head]]:
        """Iterate over the pairs of heads with the same name, in the order of ``self``.

        Args:
            other: The teacher's outputs; ``self`` holds the student's.

        Raises:
            ValueError: If the names of the heads, or the shapes of the logits of a pair, differ.
        """
        if self.heads.keys() != other.heads.keys():
            raise ValueError(f"heads: the student has {sorted(self.heads)}, the teacher {sorted(other.heads)}")
        for name, head in self.heads.items():
            if head.logits.shape != other.heads[name].logits.shape:
                raise ValueError(
                    f"head {name!r}: student logits have shape {tuple(head.logits.shape)}, "
                    f"teacher logits {tuple(other.heads[name].logits.shape)}; both must be (N, C)"
                )
            yield head, other.heads[name]
