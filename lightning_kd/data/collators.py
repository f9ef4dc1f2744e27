"""Rows by column become a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from lightning_kd.outputs import TEACHER_INPUTS, Batch

Collator = Callable[[dict[str, list[Any]]], Batch]

Columns = dict[str, list[Any]]

TEXT_COLUMN = "text_to_augment"
"""Column of texts that are worded anew."""


def is_text_feature(feature: Any) -> bool:
    """Whether a column of a data set holds texts, or lists of them."""
    while hasattr(feature, "feature"):  # a list
        feature = feature.feature
    return str(feature.dtype) == "string"


def prefix_teacher_columns(index: int, columns: Columns) -> Columns:
    """The columns of another encoding, under names that keep them apart from those of the student's."""
    return {f"teacher_{index}:{name}": values for name, values in columns.items()}


def _pop_teacher_columns(index: int, columns: Columns) -> Columns:
    """The columns of an encoding, taken out and under their own names again."""
    prefix = f"teacher_{index}:"
    names = [name for name in columns if name.startswith(prefix)]
    return {name.removeprefix(prefix): columns.pop(name) for name in names}


def collate(
    tokenizer: PreTrainedTokenizerBase,
    list_columns: set[str],
    columns: Columns,
    teacher_tokenizers: Sequence[PreTrainedTokenizerBase] = (),
) -> Batch:
    """Pad token ids to the longest row, whatever else varies in length with zeros; leave texts as they are.

    Args:
        tokenizer: Pads the student's encoding.
        list_columns: Columns that stay lists.
        columns: The rows, with the columns of ``prefix_teacher_columns`` where the teacher reads something else.
        teacher_tokenizers: Pad those; their batches are the list ``TEACHER_INPUTS``.
    """
    columns = dict(columns)
    encodings = [_pop_teacher_columns(index, columns) for index in range(len(teacher_tokenizers))]
    for name in ("length", "epoch", TEXT_COLUMN):  # were for the sampler, and for those who draw
        columns.pop(name, None)
    model_inputs = {
        name: columns.pop(name) for name in (*tokenizer.model_input_names, "token_type_ids") if name in columns
    }
    batch: Batch = dict(DataCollatorWithPadding(tokenizer)(model_inputs))  # type: ignore[arg-type]
    for name, values in columns.items():
        if name in list_columns:
            batch[name] = values
        elif isinstance(values[0], list):
            batch[name] = pad_sequence([torch.tensor(value) for value in values], batch_first=True)
        else:
            batch[name] = torch.tensor(values)
    if encodings and all(encodings):  # rows to predict have none
        pairs = zip(teacher_tokenizers, encodings, strict=True)
        batch[TEACHER_INPUTS] = [collate(teacher_tokenizer, set(), part) for teacher_tokenizer, part in pairs]
    return batch
