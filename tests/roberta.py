"""A RoBERTa-style tokenizer and networks for it: other words than BERT's, spaces that count to them, no token types."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def roberta_tokenizer(texts, vocab_size=400) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from the texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=60,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def tiny_roberta(labels, tokenizer, seed=0, model_class=RobertaForSequenceClassification, **config):
    """A RoBERTa of 2 layers x 16 with seeded random weights."""
    torch.manual_seed(seed)
    names = {} if labels is None else {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}
    return model_class(RobertaConfig(**sizes, **settings, **names, **config))


def save_roberta(model, tokenizer, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
