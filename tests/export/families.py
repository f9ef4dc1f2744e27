"""Tiny models of several families, and batches for them."""

import torch
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from tests.helpers import random_model

MODEL_CLASSES = {
    "bert": AutoModelForSequenceClassification,
    "roberta": AutoModelForSequenceClassification,
    "distilbert": AutoModelForQuestionAnswering,
    "electra": AutoModelForQuestionAnswering,
    "mpnet": AutoModelForMaskedLM,
}


def make_batch(count, length, padded=0):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(count, length, dtype=torch.long)
    mask[0, length - padded :] = 0
    # the order of a tokenizer, which differs from that of the models
    return {
        "input_ids": torch.randint(5, 100, (count, length), generator=generator),
        "token_type_ids": torch.arange(length).ge(length // 2).long().repeat(count, 1) * mask,
        "attention_mask": mask,
        "row_id": torch.arange(count),
        "labels": torch.zeros(count, dtype=torch.long),
    }


def build_model(family):
    changes = {"type_vocab_size": 1} if family == "roberta" else {}  # it does not take other token types
    return random_model(family, 2, 0, MODEL_CLASSES[family], vocab_size=100, max_position_embeddings=64, **changes)


def assert_same(ours, theirs):
    for name in [n for n in ("logits", "start_logits", "end_logits") if n in ours]:
        torch.testing.assert_close(getattr(theirs, name), ours[name], rtol=1e-4, atol=1e-5)
