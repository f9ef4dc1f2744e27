"""Encoder-decoders, whose decoder reads the labels, and causal language models, which predict the next token."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.callbacks.distillation.helpers import TextClassifier, fit_and_get_logs, kl
from tests.helpers import tiny_bert

SMALL = {"vocab_size": 50, "d_model": 16}


def t5(seed):
    torch.manual_seed(seed)
    sizes = {"d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**SMALL, **sizes, dropout_rate=0.0, decoder_start_token_id=0)).train()


def bart(seed, model=BartForConditionalGeneration):
    torch.manual_seed(seed)
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in SIZES.items()}
    return model(BartConfig(**SMALL, **sizes, dropout=0.0)).train()


SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}


def llama(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).train()


def token_classifier(seed):
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny_bert(seed=seed, model_class=BertForTokenClassification, **settings)


def batch(targets=5):
    torch.manual_seed(2)
    ids, labels = torch.randint(4, 50, (3, 7)), torch.randint(4, 50, (3, targets))
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    labels[1, 2:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


SOFT = {"losses": {"soft": SoftTargetLoss()}}
SOFT_AND_HARD = {"losses": {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}, "labels": "labels"}


@pytest.mark.parametrize("build", [t5, bart])
@pytest.mark.parametrize("targets", [5, 7])
def test_teachers_decoder_reads_the_labels(tmp_path, build, targets):
    examples = batch(targets)
    found = fit_and_get_logs(tmp_path, TextClassifier(build(0)), examples, teacher=build(1), **SOFT_AND_HARD)
    with torch.no_grad():
        own, other = (build(seed).eval()(**examples).logits[examples["labels"] != -100] for seed in (0, 1))
    assert found["soft"] == pytest.approx(float(kl(own, other)), rel=1e-3)
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)
    student = build(0)
    alone = fit_and_get_logs(tmp_path, TextClassifier(student), examples, teacher=copy.deepcopy(student), **SOFT)
    assert alone["soft"] == pytest.approx(0, abs=1e-6)


class ExtraInputs(TextClassifier):
    def training_step(self, batch):
        return self.net(batch["input_ids"], **self.extra(batch)).logits.mean()


def test_decoder_inputs_that_are_missing_or_given(tmp_path):
    module = ExtraInputs(bart(0))
    module.extra = lambda batch: {"decoder_input_ids": batch["labels"].clamp(min=0)}
    with pytest.raises(ValueError, match=r"student: .*padding .* BartForConditionalGeneration"):
        fit_and_get_logs(tmp_path, module, batch(), teacher=bart(1), **SOFT)
    keep = batch()["labels"] != -100
    module.extra = lambda batch: {"decoder_attention_mask": keep.long()}
    with pytest.raises(ValueError, match=r"student: .* decoder_input_ids"):
        fit_and_get_logs(tmp_path, module, batch(), teacher=bart(1), **SOFT)
    given = {"decoder_attention_mask": keep.long(), "decoder_input_ids": batch()["labels"].clamp(min=0)}
    module.extra = lambda batch: given
    found = fit_and_get_logs(tmp_path, module, batch(), teacher=bart(1), **SOFT)
    with torch.no_grad():
        own, other = (bart(seed).eval()(batch()["input_ids"], **given).logits[keep] for seed in (0, 1))
    assert found["soft"] == pytest.approx(float(kl(own, other)), rel=1e-3)


def test_layers_of_an_encoder_decoder(tmp_path):
    layers = {"encoder.block.0": "encoder.block.0"}
    with pytest.raises(ValueError, match=r"layers: .* T5ForConditionalGeneration"):
        fit_and_get_logs(
            tmp_path, TextClassifier(t5(0)), batch(), teacher=t5(1), losses={"h": HiddenStateMSELoss()}, layers=layers
        )


def test_causal_model_is_compared_at_the_positions_of_its_loss(tmp_path):
    examples = batch(7)
    examples["labels"][0, 3:] = -100  # padding
    teacher, caches = llama(1), []
    teacher.register_forward_hook(lambda _, __, output: caches.append(output.past_key_values))
    found = fit_and_get_logs(tmp_path, TextClassifier(llama(0)), examples, teacher=teacher, **SOFT_AND_HARD)
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)
    inputs = {name: examples[name] for name in ("input_ids", "attention_mask")}
    keep = examples["labels"][:, 1:] != -100
    with torch.no_grad():
        own, other = (llama(seed).eval()(**inputs).logits[:, :-1][keep] for seed in (0, 1))
    assert found["soft"] == pytest.approx(float(kl(own, other)), rel=1e-3)
    assert found["hard"] == pytest.approx(float(cross_entropy(own, examples["labels"][:, 1:][keep])), rel=1e-5)
    assert caches == [None]


def test_padding_is_masked_even_with_labels(tmp_path):
    examples = batch(7)
    examples["labels"] = examples["input_ids"]
    found = fit_and_get_logs(tmp_path, TextClassifier(llama(0)), examples, teacher=llama(1), **SOFT_AND_HARD)
    keep = examples["attention_mask"][:, 1:].bool()
    inputs = {name: examples[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own = llama(0).eval()(**inputs).logits[:, :-1][keep]
    assert found["hard"] == pytest.approx(float(cross_entropy(own, examples["labels"][:, 1:][keep])), rel=1e-5)


def test_causal_model_with_ambiguous_labels(tmp_path):
    module = ExtraInputs(llama(0))
    module.extra = lambda batch: {}
    with pytest.raises(ValueError, match="labels: LlamaForCausalLM is called without labels"):
        fit_and_get_logs(tmp_path, module, batch(7), teacher=llama(1), **SOFT_AND_HARD)
    fit_and_get_logs(tmp_path, module, batch(7), teacher=llama(1), **SOFT)
    model = bart(0, BartForCausalLM)
    with pytest.raises(ValueError, match=r"labels: BartForCausalLM .*loss_function"):
        fit_and_get_logs(tmp_path, TextClassifier(model), batch(7), teacher=copy.deepcopy(model), **SOFT_AND_HARD)


def test_unlabeled_tokens_are_dropped_if_labels_are_set(tmp_path):
    ours, theirs = (token_classifier(seed) for seed in (0, 1))
    examples = {"input_ids": torch.randint(5, 1200, (2, 6)), "labels": torch.tensor([[0, -100, 2, 1, -100, 0]] * 2)}
    for labels, keep in ((None, examples["labels"] > -200), ("labels", examples["labels"] != -100)):
        found = fit_and_get_logs(
            tmp_path, TextClassifier(copy.deepcopy(ours)), examples, teacher=theirs, **SOFT, labels=labels
        )
        with torch.no_grad():
            own, other = (model.eval()(examples["input_ids"]).logits[keep] for model in (ours, theirs))
        assert found["soft"] == pytest.approx(float(kl(own, other)), rel=1e-3)
        ours.train()
