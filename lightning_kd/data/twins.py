"""Batches with another wording of each row, drawn anew in each epoch."""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.augmentation import Augmentation
from lightning_kd.data.collators import TEXT_COLUMN, Collator, Columns, collate
from lightning_kd.outputs import AUGMENTED, Batch


def collate_with_augmentation(
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[list[list[str]]], dict[str, list[Any]]],
    augmentation: Augmentation,
    seed: int,
    base_collator: Collator,
    columns: Columns,
) -> Batch:
    """Make a batch and its twin, drawn from (seed, epoch, row): the same whatever else is in the batch.

    Args:
        tokenizer: Pads the twin.
        encode: Token ids of texts.
        augmentation: Words a text anew.
        seed: Of the run.
        base_collator: Makes a batch of the rows as they are.
        columns: The rows, their texts as ``TEXT_COLUMN``.
    """
    rows = zip(columns[TEXT_COLUMN], columns["epoch"], columns["row_id"], strict=True)
    augmented_texts = [
        augmentation(text, np.random.default_rng([seed, epoch, max(row, 0)])) for text, epoch, row in rows
    ]
    return {**base_collator(columns), AUGMENTED: collate(tokenizer, set(), encode([augmented_texts]))}
