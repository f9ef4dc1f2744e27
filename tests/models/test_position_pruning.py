"""Pruned positions do not change the logits; models whose logits would change run unpruned."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForMaskedLM

from lightning_kd import MaskedLM, SequenceClassification
from lightning_kd.models.position_pruning import _last_norms
from tests.helpers import FAMILIES, SIZES, TEXT, random_model, tiny_bert

BATCH = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT), "row_id": torch.tensor([0, 1])}
MASKED = {**BATCH, "labels": torch.where(torch.arange(TEXT.shape[1]) % 3 == 1, TEXT, -100)}


def count_positions(model, run):
    """Return the number of positions in the last linear layer, and the result of ``run``."""
    sizes = []
    layer = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)[-1]
    linears = [m for m in layer.modules() if isinstance(m, nn.Linear)]
    with linears[-1].register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[:-1].numel())):
        result = run()
    return sizes[-1], result


@pytest.mark.parametrize("kind", FAMILIES)
def test_classifier_computes_only_the_first_position_of_the_last_layer(kind):
    model = random_model(kind, 2, seed=1, auto_class=AutoModelForSequenceClassification, num_labels=5)
    with torch.no_grad():
        expected = model(**{k: v for k, v in BATCH.items() if k != "row_id"}).logits
        seen, outputs = count_positions(model, lambda: SequenceClassification().run(model, BATCH))
    assert seen == 2
    torch.testing.assert_close(outputs.heads["label"].logits, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_masked_lm_computes_only_masked_positions_of_the_last_layer(kind):
    model = random_model(kind, 2, seed=1)
    with torch.no_grad():
        seen, _ = count_positions(model, lambda: MaskedLM().run(model, MASKED))
    assert seen == int((MASKED["labels"] >= 0).sum())


def test_gradients_and_modes_are_unchanged():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    model.bert.encoder.layer[0].eval()
    model(input_ids=TEXT, attention_mask=BATCH["attention_mask"]).logits.square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    SequenceClassification().run(model, BATCH).heads["label"].logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)
    assert model.training
    assert not model.bert.encoder.layer[0].training
    assert model.bert.encoder.layer[1].training


def test_probe_leaves_the_random_state():
    model = tiny_bert().train()
    torch.manual_seed(5)
    SequenceClassification().run(model, BATCH)
    first = torch.random.get_rng_state()
    torch.manual_seed(5)
    SequenceClassification().run(model, BATCH)
    assert torch.equal(torch.random.get_rng_state(), first)


class Mean(nn.Module):
    def forward(self, states):
        return states.mean(dim=1)


def model_that_pools_all_positions():
    model = tiny_bert()
    model.bert.pooler = Mean()
    return model


def pre_norm(kind, dtype=torch.float32):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, num_hidden_layers=6, num_labels=3, pad_token_id=0)
    return AutoModelForSequenceClassification.from_config(config).to(dtype)


@pytest.mark.parametrize(
    "make_model",
    [
        model_that_pools_all_positions,
        partial(pre_norm, "modernbert"),
        partial(pre_norm, "roberta-prelayernorm"),
        partial(pre_norm, "megatron-bert"),
        # their last attention changes the logits by less than the rounding of bfloat16
        partial(pre_norm, "roberta-prelayernorm", torch.bfloat16),
        partial(pre_norm, "megatron-bert", torch.bfloat16),
    ],
)
def test_models_that_cannot_be_pruned_run_unpruned(make_model):
    model = make_model().eval()
    with torch.no_grad():
        expected = model(input_ids=TEXT, attention_mask=BATCH["attention_mask"]).logits
        assert torch.equal(SequenceClassification().run(model, BATCH).heads["label"].logits, expected)
    assert _last_norms[model] is None


def test_examples_without_masked_tokens_are_not_conclusive():
    model = tiny_bert(labels=None, model_class=BertForMaskedLM)
    unmasked = {**MASKED, "labels": torch.full_like(TEXT, -100)}
    MaskedLM().run(model, unmasked)
    assert model not in _last_norms
    MaskedLM().run(model, MASKED)
    assert _last_norms[model] is not None


def test_checkpointed_layers_run_unpruned():
    model = tiny_bert().train()
    # renamed in newer versions of transformers
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    SequenceClassification().run(model, BATCH).heads["label"].logits.sum().backward()
    assert _last_norms[model] is None


def test_examples_of_one_token_are_not_conclusive():
    model = tiny_bert().eval()
    SequenceClassification().run(
        model, {name: value[:, :1] if value.ndim > 1 else value for name, value in BATCH.items()}
    )
    assert model not in _last_norms
