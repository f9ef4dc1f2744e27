"""Queries, keys and values of the families, against the attention they give."""

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForMaskedLM

from lightning_kd.losses.attention_score import attention_scores
from lightning_kd.models.qkv_hooks import recorded_projections
from tests.models.test_layer_initialization import FAMILIES, TEXT, network


def recorded(model):
    with torch.no_grad(), recorded_projections(model) as projections:
        output = model(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), output_attentions=True)
    return projections, output


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "mpnet"])
def test_scores_are_those_of_eager_attention(kind):
    model = network(kind, 3, seed=1)
    model.set_attn_implementation("eager")
    projections, output = recorded(model)
    assert len(projections) == 3
    for layer, attention in zip(projections, output.attentions, strict=True):
        assert layer.heads == 2
        torch.testing.assert_close(attention_scores(layer).softmax(-1), attention)


@pytest.mark.parametrize("kind", FAMILIES)
def test_any_attention_implementation_does(kind):
    model = network(kind, 2, seed=1)
    both = []
    for implementation in ("eager", "sdpa"):
        if kind != "mpnet":  # it has one only
            model.set_attn_implementation(implementation)
        both.append(recorded(model)[0])
    for first, second in zip(*both, strict=True):
        for name in ("query", "key", "value"):
            torch.testing.assert_close(getattr(first, name), getattr(second, name))
            assert getattr(first, name).shape == (2, 7, 16)
    assert not torch.equal(both[0][0].query, both[0][0].key)


def test_hooks_are_gone_afterwards():
    model = network("bert", 2, seed=1)
    with pytest.raises(RuntimeError, match="in between"), recorded_projections(model):
        raise RuntimeError("in between")
    assert not any(module._forward_hooks for module in model.modules())


def test_mpnet_gives_its_own_maps():
    model = network("mpnet", 2, seed=1)
    projections, _ = recorded(model)
    attention = model.mpnet.encoder.layer[0].attention.attn
    with torch.no_grad():
        states = model.mpnet.embeddings(TEXT)
        torch.testing.assert_close(projections[0].query, attention.q(states))
        torch.testing.assert_close(projections[0].value, attention.v(states))


def test_other_networks_are_refused():
    albert = AlbertForMaskedLM(AlbertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16))
    for model in (albert, nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="no queries, keys and values to compare; families known are BERT"):
            recorded(model)
