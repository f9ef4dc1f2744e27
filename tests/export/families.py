"""Tiny models of several families, and batches for them."""

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from tests.helpers import tiny_bert

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
EMBEDDING_SIZES = {"vocab_size": 100, "max_position_embeddings": 66}
FAMILIES = {
    "bert": (AutoModelForSequenceClassification, tiny_bert(vocab_size=100).config),
    "roberta": (
        AutoModelForSequenceClassification,
        RobertaConfig(**SIZES, **EMBEDDING_SIZES, type_vocab_size=1, pad_token_id=1),
    ),
    "distilbert": (
        AutoModelForQuestionAnswering,
        DistilBertConfig(**EMBEDDING_SIZES, dim=16, n_heads=2, hidden_dim=32, n_layers=2),
    ),
    "electra": (AutoModelForQuestionAnswering, ElectraConfig(**SIZES, **EMBEDDING_SIZES, embedding_size=16)),
    "mpnet": (AutoModelForMaskedLM, MPNetConfig(**SIZES, **EMBEDDING_SIZES)),
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
    auto, config = FAMILIES[family]
    torch.manual_seed(0)
    return auto.from_config(config).eval()


def assert_same(ours, theirs, **tolerance):
    for name in [n for n in ("logits", "start_logits", "end_logits") if n in ours]:
        torch.testing.assert_close(getattr(theirs, name), ours[name], **tolerance)
