"""Encoder-decoders, whose decoder reads the labels, and causal language models, which predict the next token."""

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

BART_SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
SOFT = {"losses": {"soft": SoftTargetLoss()}}
SOFT_AND_HARD = {"losses": {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}, "labels": "labels"}


def t5(seed):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0)).train()


def bart(seed, model_class=BartForConditionalGeneration):
    torch.manual_seed(seed)
    sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in BART_SIZES.items()}
    return model_class(BartConfig(vocab_size=50, d_model=16, **sizes, dropout=0.0)).train()


def llama(seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).train()


def token_classifier(seed):
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny_bert(seed=seed, model_class=BertForTokenClassification, **settings).train()


def make_batch(targets=5):
    torch.manual_seed(2)
    ids, labels = torch.randint(4, 50, (3, 7)), torch.randint(4, 50, (3, targets))
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    labels[1, 2:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def predict(build, keep, **inputs):
    """Return the logits of student and teacher at the positions to keep."""
    with torch.no_grad():
        return [build(seed).eval()(**inputs).logits[:, : keep.shape[1]][keep] for seed in (0, 1)]


@pytest.mark.parametrize("build", [t5, bart])
@pytest.mark.parametrize("targets", [5, 7])
def test_teachers_decoder_reads_the_labels(tmp_path, build, targets):
    batch = make_batch(targets)
    found = fit_and_get_logs(tmp_path, TextClassifier(build(0)), batch, teacher=build(1), **SOFT_AND_HARD)
    expected = kl(*predict(build, batch["labels"] != -100, **batch))
    assert found["soft"] == pytest.approx(expected.item(), rel=1e-3)
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)


def with_inputs(net, make_inputs):
    class WithInputs(TextClassifier):
        def training_step(self, batch):
            return self.net(batch["input_ids"], **make_inputs(batch)).logits.mean()

    return WithInputs(net)


def test_decoder_inputs(tmp_path):
    keep = make_batch()["labels"] != -100
    mask, ids = {"decoder_attention_mask": keep.long()}, {"decoder_input_ids": make_batch()["labels"].clamp(min=0)}

    def run(inputs):
        module = with_inputs(bart(0), lambda batch: inputs)
        return fit_and_get_logs(tmp_path, module, make_batch(), teacher=bart(1), **SOFT)

    with pytest.raises(ValueError, match=r"student: .*padding .* BartForConditionalGeneration"):
        run(ids)
    with pytest.raises(ValueError, match=r"student: .* decoder_input_ids"):
        run(mask)
    expected = kl(*predict(bart, keep, input_ids=make_batch()["input_ids"], **mask, **ids))
    assert run({**mask, **ids})["soft"] == pytest.approx(expected.item(), rel=1e-3)


def test_layers_of_an_encoder_decoder(tmp_path):
    settings = {"losses": {"hidden": HiddenStateMSELoss()}, "layers": {"encoder.block.0": "encoder.block.0"}}
    with pytest.raises(ValueError, match=r"layers: .* T5ForConditionalGeneration"):
        fit_and_get_logs(tmp_path, TextClassifier(t5(0)), make_batch(), teacher=t5(1), **settings)


@pytest.mark.parametrize("masked_labels", [True, False])
def test_causal_model_is_compared_at_the_positions_of_its_loss(tmp_path, masked_labels):
    """Padding is left out, even if it has labels."""
    batch = make_batch(7)
    if masked_labels:
        batch["labels"][0, 3:] = -100
        keep = batch["labels"][:, 1:] != -100
    else:
        batch["labels"] = batch["input_ids"]
        keep = batch["attention_mask"][:, 1:].bool()
    teacher, caches = llama(1), []
    teacher.register_forward_hook(lambda _, __, output: caches.append(output.past_key_values))
    found = fit_and_get_logs(tmp_path, TextClassifier(llama(0)), batch, teacher=teacher, **SOFT_AND_HARD)
    student_logits, teacher_logits = predict(
        llama, keep, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    )
    expected = cross_entropy(student_logits, batch["labels"][:, 1:][keep])
    assert found["hard"] == pytest.approx(expected.item(), rel=1e-5)
    assert caches == [None]
    if masked_labels:
        assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)
        assert found["soft"] == pytest.approx(kl(student_logits, teacher_logits).item(), rel=1e-3)


def test_causal_model_with_ambiguous_labels(tmp_path):
    module = with_inputs(llama(0), lambda batch: {})
    with pytest.raises(ValueError, match="labels: LlamaForCausalLM is called without labels"):
        fit_and_get_logs(tmp_path, module, make_batch(7), teacher=llama(1), **SOFT_AND_HARD)
    fit_and_get_logs(tmp_path, module, make_batch(7), teacher=llama(1), **SOFT)
    models = (bart(seed, BartForCausalLM) for seed in (0, 1))
    with pytest.raises(ValueError, match=r"labels: BartForCausalLM .*loss_function"):
        fit_and_get_logs(tmp_path, TextClassifier(next(models)), make_batch(7), teacher=next(models), **SOFT_AND_HARD)


@pytest.mark.parametrize("labels", [None, "labels"])
def test_padding_and_unlabeled_tokens_are_dropped(tmp_path, labels):
    """Unlabeled tokens are dropped only if labels are set."""
    batch = {**make_batch(7), "labels": torch.tensor([[0, -100, 2, 1, 0, 1, 2]] * 3)}
    keep, losses = batch["attention_mask"].bool(), {"soft": SoftTargetLoss()}
    if labels is not None:
        keep, losses["hard"] = keep & (batch["labels"] != -100), HardLabelLoss()
    module, teacher = TextClassifier(token_classifier(0)), token_classifier(1)
    found = fit_and_get_logs(tmp_path, module, batch, teacher=teacher, losses=losses, labels=labels)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    student_logits, teacher_logits = predict(token_classifier, keep, **inputs)
    assert found["soft"] == pytest.approx(kl(student_logits, teacher_logits).item(), rel=1e-3)
    if labels is not None:
        expected = cross_entropy(student_logits, batch["labels"][keep])
        assert found["hard"] == pytest.approx(expected.item(), rel=1e-5)
