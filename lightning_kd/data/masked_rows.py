"""Batches of rows with hidden tokens."""

from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from lightning_kd.data.collators import collate
from lightning_kd.data.masking import Masking
from lightning_kd.outputs import IGNORED, TEACHER_INPUTS, Batch

Around = tuple[list[int], list[int]]
"""Token ids before and after a text."""


def mask_and_collate(
    tokenizer: PreTrainedTokenizerBase,
    masking: Masking,
    seed: int,
    around: Around | None,
    texts: set[str],
    columns: dict[str, list[Any]],
) -> Batch:
    """Make a batch and hide tokens, drawn from (seed, epoch, row): the same whatever else is in the batch."""
    words = columns.pop("word", None)
    rows = list(zip(columns["epoch"], columns["row_id"], strict=True))
    batch = collate(tokenizer, texts, columns)
    ids = batch["input_ids"].numpy()
    labels = np.full_like(ids, IGNORED)
    for number, (epoch, row_id) in enumerate(rows):
        if row_id < 0:
            continue
        places = np.flatnonzero(batch["attention_mask"][number].numpy())
        generator = np.random.default_rng([seed, epoch, row_id])
        word = None if words is None else np.asarray(words[number])
        ids[number, places], labels[number, places] = masking.apply(ids[number, places], word, generator)
    batch["labels"] = torch.from_numpy(labels)
    if around is not None:
        batch[TEACHER_INPUTS] = [_with_prompt(tokenizer, around, batch)]
    return batch


def _with_prompt(tokenizer: PreTrainedTokenizerBase, around: Around, batch: Batch) -> Batch:
    """The same rows with the same tokens hidden, and a prompt between the special tokens and the text."""
    rows = []
    for ids, labels, counts in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        first, *middle, last = ids[counts].tolist()
        hidden = [[IGNORED] * len(part) for part in around]
        rows.append(
            {
                "input_ids": [first, *around[0], *middle, *around[1], last],
                "labels": [IGNORED, *hidden[0], *labels[counts].tolist()[1:-1], *hidden[1], IGNORED],
            }
        )
    # the labels of padding do not count
    padded: Batch = dict(DataCollatorWithPadding(tokenizer)([{"input_ids": row["input_ids"]} for row in rows]))
    labels = torch.full_like(padded["input_ids"], IGNORED)
    labels[padded["attention_mask"].bool()] = torch.tensor([label for row in rows for label in row["labels"]])
    return {**padded, "labels": labels}
