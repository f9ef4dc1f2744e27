"""Parameter groups with and without weight decay."""

import pytest
from torch import nn
from torch.optim import AdamW

from lightning_kd.optim.parameter_groups import parameter_groups
from tests.helpers import random_model, tiny_bert


@pytest.mark.parametrize("model", [tiny_bert(), random_model("mpnet", 1, seed=0)], ids=["bert", "mpnet"])
def test_no_weight_decay_on_biases_and_norms(model):
    optimizer = AdamW(parameter_groups(model), lr=1e-3, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    without = {name for name, parameter in model.named_parameters() if decay[id(parameter)] == 0}
    expected = {name for name, _ in model.named_parameters() if "bias" in name or "norm" in name.lower()}
    assert without == expected
    assert set(decay.values()) == {0.0, 0.1}


def test_frozen_parameters_are_left_out():
    model = tiny_bert()
    model.bert.requires_grad_(False)
    grouped = {id(parameter) for group in parameter_groups(model) for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.classifier.parameters()}


def tied_layers():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    return nn.Sequential(first, second)


@pytest.mark.parametrize(
    ("module", "sizes"), [(nn.Linear(2, 2, bias=False), [1]), (nn.LayerNorm(2), [2]), (tied_layers(), [1, 2])]
)
def test_no_group_is_empty_and_tied_parameters_occur_once(module, sizes):
    assert [len(group["params"]) for group in parameter_groups(module)] == sizes
