"""Collators, which turn encoded examples by column into a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, PreTrainedTokenizerBase

from lightning_kd.data.augmentation import Augmentation
from lightning_kd.data.masking import Masking
from lightning_kd.data.readers import Columns
from lightning_kd.outputs import AUGMENTED, IGNORE_INDEX, TEACHER_INPUTS, Batch

Collator = Callable[[Columns], Batch]

PromptTokenIds = tuple[list[int], list[int]]
"""Token ids of a prompt before and after the text."""

TEXT_COLUMN = "text_to_augment"
"""Column of the texts that an augmentation changes."""


def is_text_feature(feature: Any) -> bool:
    """Return True if a feature of ``datasets`` holds strings or lists of strings."""
    while hasattr(feature, "feature"):  # a list
        feature = feature.feature
    return str(feature.dtype) == "string"


def prefix_teacher_columns(index: int, columns: Columns) -> Columns:
    """Rename the columns of the teacher's encoding ``index``, so that they differ from those of the student."""
    return {f"teacher_{index}:{name}": values for name, values in columns.items()}


def _pop_teacher_columns(index: int, columns: Columns) -> Columns:
    """Remove the columns of the teacher's encoding ``index`` and return them under their original names."""
    prefix = f"teacher_{index}:"
    names = [name for name in columns if name.startswith(prefix)]
    return {name.removeprefix(prefix): columns.pop(name) for name in names}


def collate(
    tokenizer: PreTrainedTokenizerBase,
    list_columns: set[str],
    columns: Columns,
    teacher_tokenizers: Sequence[PreTrainedTokenizerBase] = (),
) -> Batch:
    """Pad token ids to the longest example and other sequences with zeros; keep strings as lists.

    Args:
        tokenizer: Tokenizer that pads the student's inputs.
        list_columns: Columns that stay lists.
        columns: Encoded examples, with the columns of ``prefix_teacher_columns`` if the teacher has separate inputs.
        teacher_tokenizers: Tokenizers that pad the teacher's inputs, which become the list ``TEACHER_INPUTS``.
    """
    columns = dict(columns)
    encodings = [_pop_teacher_columns(index, columns) for index in range(len(teacher_tokenizers))]
    for name in ("length", "epoch", TEXT_COLUMN):  # used by samplers, masking and augmentation only
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
    if encodings and all(encodings):  # the predict split has none
        pairs = zip(teacher_tokenizers, encodings, strict=True)
        batch[TEACHER_INPUTS] = [collate(teacher_tokenizer, set(), part) for teacher_tokenizer, part in pairs]
    return batch


def collate_with_augmentation(
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[list[list[str]]], Columns],
    augmentation: Augmentation,
    seed: int,
    base_collator: Collator,
    columns: Columns,
) -> Batch:
    """Collate examples together with an augmented version of each, which is the batch ``AUGMENTED``.

    Augmentations are drawn from (seed, epoch, row_id), so they do not depend on the other examples of the batch.

    Args:
        tokenizer: Tokenizer that pads the augmented examples.
        encode: Function that tokenizes columns of texts.
        augmentation: Fitted augmentation.
        seed: Seed of the run.
        base_collator: Collator of the original examples.
        columns: Encoded examples, with their texts in ``TEXT_COLUMN``.
    """
    keys = zip(columns[TEXT_COLUMN], columns["epoch"], columns["row_id"], strict=True)
    augmented = [
        augmentation(text, np.random.default_rng([seed, epoch, max(row_id, 0)])) for text, epoch, row_id in keys
    ]
    return {**base_collator(columns), AUGMENTED: collate(tokenizer, set(), encode([augmented]))}


def collate_with_masking(
    tokenizer: PreTrainedTokenizerBase,
    masking: Masking,
    seed: int,
    prompt_ids: PromptTokenIds | None,
    list_columns: set[str],
    columns: Columns,
) -> Batch:
    """Collate examples and mask tokens.

    Masks are drawn from (seed, epoch, row_id), so they do not depend on the other examples of the batch.

    Args:
        tokenizer: Tokenizer that pads.
        masking: Selects and replaces tokens.
        seed: Seed of the run.
        prompt_ids: Prompt that the teacher reads around each text; None for no separate teacher inputs.
        list_columns: Columns that stay lists.
        columns: Encoded examples, with ``word_ids`` for whole-word masking.
    """
    word_ids = columns.pop("word_ids", None)
    batch = collate(tokenizer, list_columns, columns)
    ids = batch["input_ids"].numpy()
    labels = np.full_like(ids, IGNORE_INDEX)
    for index, (epoch, row_id) in enumerate(zip(columns["epoch"], columns["row_id"], strict=True)):
        if row_id < 0:
            continue
        positions = np.flatnonzero(batch["attention_mask"][index].numpy())
        generator = np.random.default_rng([seed, epoch, row_id])
        example_word_ids = None if word_ids is None else np.asarray(word_ids[index])
        ids[index, positions], labels[index, positions] = masking.apply(
            ids[index, positions], example_word_ids, generator
        )
    batch["labels"] = torch.from_numpy(labels)
    if prompt_ids is not None:
        batch[TEACHER_INPUTS] = [_add_prompt(tokenizer, prompt_ids, batch)]
    return batch


def _add_prompt(tokenizer: PreTrainedTokenizerBase, prompt_ids: PromptTokenIds, batch: Batch) -> Batch:
    """Return the masked examples with the prompt inserted between the special tokens and the text."""
    examples: list[dict[str, Any]] = []
    prefix, suffix = prompt_ids
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        first, *middle, last = ids[mask].tolist()
        before, after = ([IGNORE_INDEX] * (1 + len(part)) for part in prompt_ids)
        new_labels = [*before, *labels[mask].tolist()[1:-1], *after]
        examples.append({"input_ids": [first, *prefix, *middle, *suffix, last], "labels": new_labels})
    return dict(DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORE_INDEX)(examples))
