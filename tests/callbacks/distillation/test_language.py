"""Language models: encoder-decoders, whose decoder reads the labels, and causal ones, which predict the next token."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
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
from tests.callbacks.distillation.test_teacher import Text, fit_and_get_logs, no_dropout

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


def batch(targets=5):
    torch.manual_seed(2)
    ids, labels = torch.randint(4, 50, (3, 7)), torch.randint(4, 50, (3, targets))
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    labels[1, 2:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def divergence(own, other):
    return float(kl_div(own.log_softmax(-1), other.log_softmax(-1), reduction="batchmean", log_target=True))


LOSSES = {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}


@pytest.mark.parametrize("build", [t5, bart])
@pytest.mark.parametrize("targets", [5, 7])
def test_decoder_of_the_teacher_reads_the_labels_too(tmp_path, build, targets):
    rows = batch(targets)
    found = fit_and_get_logs(tmp_path, Text(build(0)), rows, teacher=build(1), losses=LOSSES, labels="labels")
    with torch.no_grad():
        own, other = (build(seed).eval()(**rows).logits[rows["labels"] != -100] for seed in (0, 1))
    assert found["soft"] == pytest.approx(divergence(own, other), rel=1e-3)
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)
    student = build(0)
    alone = fit_and_get_logs(
        tmp_path, Text(student), rows, teacher=copy.deepcopy(student), losses={"soft": SoftTargetLoss()}
    )
    assert alone["soft"] == pytest.approx(0, abs=1e-6)


class ExtraInputs(Text):
    def training_step(self, batch):
        return self.model(batch["input_ids"], **self.extra(batch)).logits.mean()


def test_decoder_whose_padding_nobody_tells(tmp_path):
    module = ExtraInputs(bart(0))
    module.extra = lambda batch: {"decoder_input_ids": batch["labels"].clamp(min=0)}
    with pytest.raises(ValueError, match="called with neither labels nor decoder_attention_mask"):
        fit_and_get_logs(tmp_path, module, batch(), teacher=bart(1), losses={"soft": SoftTargetLoss()})
    keep = batch()["labels"] != -100
    module.extra = lambda batch: {"decoder_attention_mask": keep.long()}
    with pytest.raises(ValueError, match="which the teacher needs, too; pass decoder_input_ids"):
        fit_and_get_logs(tmp_path, module, batch(), teacher=bart(1), losses={"soft": SoftTargetLoss()})
    given = {"decoder_attention_mask": keep.long(), "decoder_input_ids": batch()["labels"].clamp(min=0)}
    module.extra = lambda batch: given
    found = fit_and_get_logs(tmp_path, module, batch(), teacher=bart(1), losses={"soft": SoftTargetLoss()})
    with torch.no_grad():
        own, other = (bart(seed).eval()(batch()["input_ids"], **given).logits[keep] for seed in (0, 1))
    assert found["soft"] == pytest.approx(divergence(own, other), rel=1e-3)


def test_layers_of_an_encoder_decoder_are_refused(tmp_path):
    layers = {"encoder.block.0": "encoder.block.0"}
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has two kinds of padding"):
        fit_and_get_logs(
            tmp_path, Text(t5(0)), batch(), teacher=t5(1), losses={"h": HiddenStateMSELoss()}, layers=layers
        )


def test_causal_model_is_compared_where_its_own_loss_is(tmp_path):
    rows = batch(7)
    rows["labels"][0, 3:] = -100  # as the mask says
    teacher, caches = llama(1), []
    teacher.register_forward_hook(lambda _, __, output: caches.append(output.past_key_values))
    found = fit_and_get_logs(tmp_path, Text(llama(0)), rows, teacher=teacher, losses=LOSSES, labels="labels")
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    keep = rows["labels"][:, 1:] != -100
    with torch.no_grad():
        own, other = (llama(seed).eval()(**inputs).logits[:, :-1][keep] for seed in (0, 1))
    assert found["soft"] == pytest.approx(divergence(own, other), rel=1e-3)
    assert found["hard"] == pytest.approx(float(cross_entropy(own, rows["labels"][:, 1:][keep])), rel=1e-5)
    assert caches == [None]


def test_padding_counts_for_no_causal_model(tmp_path):
    """Even where its labels are no -100."""
    rows = batch(7)
    rows["labels"] = rows["input_ids"]
    found = fit_and_get_logs(tmp_path, Text(llama(0)), rows, teacher=llama(1), losses=LOSSES, labels="labels")
    keep = rows["attention_mask"][:, 1:].bool()
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own = llama(0).eval()(**inputs).logits[:, :-1][keep]
    assert found["hard"] == pytest.approx(float(cross_entropy(own, rows["labels"][:, 1:][keep])), rel=1e-5)


def test_causal_model_whose_labels_may_be_of_this_or_the_next_token(tmp_path):
    module = ExtraInputs(llama(0))
    module.extra = lambda batch: {}
    with pytest.raises(ValueError, match="LlamaForCausalLM is called without labels, so it is not known"):
        fit_and_get_logs(tmp_path, module, batch(7), teacher=llama(1), losses=LOSSES, labels="labels")
    fit_and_get_logs(tmp_path, module, batch(7), teacher=llama(1), losses={"soft": SoftTargetLoss()})
    own = bart(0, BartForCausalLM)
    with pytest.raises(ValueError, match="BartForCausalLM computes its loss in a way of its own"):
        fit_and_get_logs(tmp_path, Text(own), batch(7), teacher=copy.deepcopy(own), losses=LOSSES, labels="labels")


def test_tokens_without_a_label_are_left_out_where_labels_are_named(tmp_path):
    ours, theirs = (no_dropout(seed=seed, model_class=BertForTokenClassification) for seed in (0, 1))
    rows = {"input_ids": torch.randint(5, 1200, (2, 6)), "labels": torch.tensor([[0, -100, 2, 1, -100, 0]] * 2)}
    for labels, keep in ((None, rows["labels"] > -200), ("labels", rows["labels"] != -100)):
        losses = {"soft": SoftTargetLoss()}
        found = fit_and_get_logs(
            tmp_path, Text(copy.deepcopy(ours)), rows, teacher=theirs, losses=losses, labels=labels
        )
        with torch.no_grad():
            own, other = (model.eval()(rows["input_ids"]).logits[keep] for model in (ours, theirs))
        assert found["soft"] == pytest.approx(divergence(own, other), rel=1e-3)
        ours.train()
