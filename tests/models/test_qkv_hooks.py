"""Captured queries, keys and values against the attention of the same forward pass."""

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForMaskedLM

from lightning_kd.losses.attention_score import attention_scores
from lightning_kd.models.qkv_hooks import capture_qkv
from tests.helpers import FAMILIES, TEXT, random_model


def run_captured(model):
    with torch.no_grad(), capture_qkv(model) as layers:
        output = model(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), output_attentions=True)
    return layers, output


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "mpnet"])
def test_scores_equal_eager_attention(kind):
    model = random_model(kind, 3, seed=1)
    model.set_attn_implementation("eager")
    layers, output = run_captured(model)
    assert len(layers) == 3
    for layer, attention in zip(layers, output.attentions, strict=True):
        assert layer.num_attention_heads == 2
        torch.testing.assert_close(attention_scores(layer).softmax(-1), attention)


@pytest.mark.parametrize("kind", FAMILIES)
def test_any_attention_implementation(kind):
    model = random_model(kind, 2, seed=1)
    both = []
    for implementation in ("eager", "sdpa"):
        if kind != "mpnet":  # has only one
            model.set_attn_implementation(implementation)
        both.append(run_captured(model)[0])
    for first, second in zip(*both, strict=True):
        for name in ("query", "key", "value"):
            torch.testing.assert_close(getattr(first, name), getattr(second, name))
            assert getattr(first, name).shape == (2, 7, 16)
    assert not torch.equal(both[0][0].query, both[0][0].key)


def test_hooks_are_removed():
    model = random_model("bert", 2, seed=1)
    with pytest.raises(RuntimeError, match="in between"), capture_qkv(model):
        raise RuntimeError("in between")
    assert not any(module._forward_hooks for module in model.modules())


def test_mpnet():
    model = random_model("mpnet", 2, seed=1)
    layers, _ = run_captured(model)
    attention = model.mpnet.encoder.layer[0].attention.attn
    with torch.no_grad():
        states = model.mpnet.embeddings(TEXT)
        torch.testing.assert_close(layers[0].query, attention.q(states))
        torch.testing.assert_close(layers[0].value, attention.v(states))


def test_unsupported_models():
    albert = AlbertForMaskedLM(AlbertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16))
    for model in (albert, nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=rf"^{type(model).__name__}: "):
            run_captured(model)
