"""Batches of rows with hidden tokens."""

from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from lightning_kd.data.collators import collate
from lightning_kd.data.masking import Masking
from lightning_kd.outputs import IGNORE_INDEX, TEACHER_INPUTS, Batch

PromptTokenIds = tuple[list[int], list[int]]
"""Token ids before and after a text."""


def mask_and_collate(
    tokenizer: PreTrainedTokenizerBase,
    masking: Masking,
    seed: int,
    prompt_ids: PromptTokenIds | None,
    list_columns: set[str],
    columns: dict[str, list[Any]],
) -> Batch:
    """Make a batch and hide tokens, drawn from (seed, epoch, row): the same whatever else is in the batch."""
    word_ids = columns.pop("word_ids", None)
    rows = list(zip(columns["epoch"], columns["row_id"], strict=True))
    batch = collate(tokenizer, list_columns, columns)
    ids = batch["input_ids"].numpy()
    labels = np.full_like(ids, IGNORE_INDEX)
    for number, (epoch, row_id) in enumerate(rows):
        if row_id < 0:
            continue
        positions = np.flatnonzero(batch["attention_mask"][number].numpy())
        generator = np.random.default_rng([seed, epoch, row_id])
        row_word_ids = None if word_ids is None else np.asarray(word_ids[number])
        ids[number, positions], labels[number, positions] = masking.apply(
            ids[number, positions], row_word_ids, generator
        )
    batch["labels"] = torch.from_numpy(labels)
    if prompt_ids is not None:
        batch[TEACHER_INPUTS] = [_add_prompt(tokenizer, prompt_ids, batch)]
    return batch


def _add_prompt(tokenizer: PreTrainedTokenizerBase, prompt_ids: PromptTokenIds, batch: Batch) -> Batch:
    """The same rows with the same tokens hidden, and a prompt between the special tokens and the text."""
    rows = []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        first, *middle, last = ids[mask].tolist()
        ignored = [[IGNORE_INDEX] * len(part) for part in prompt_ids]
        rows.append(
            {
                "input_ids": [first, *prompt_ids[0], *middle, *prompt_ids[1], last],
                "labels": [IGNORE_INDEX, *ignored[0], *labels[mask].tolist()[1:-1], *ignored[1], IGNORE_INDEX],
            }
        )
    # the labels of padding do not count
    padded: Batch = dict(DataCollatorWithPadding(tokenizer)([{"input_ids": row["input_ids"]} for row in rows]))
    labels = torch.full_like(padded["input_ids"], IGNORE_INDEX)
    labels[padded["attention_mask"].bool()] = torch.tensor([label for row in rows for label in row["labels"]])
    return {**padded, "labels": labels}
