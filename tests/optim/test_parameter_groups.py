"""Parameter groups with and without weight decay."""

import torch
from torch import nn
from torch.optim import SGD, AdamW

from lightning_kd.optim.parameter_groups import parameter_groups
from tests.helpers import tiny_bert


def test_each_parameter_is_in_exactly_one_group():
    model = tiny_bert()
    grouped = [id(parameter) for group in parameter_groups(model) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_no_weight_decay_on_biases_and_norms():
    model = tiny_bert()
    optimizer = AdamW(parameter_groups(model), lr=1e-3, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    without = {name for name, parameter in model.named_parameters() if decay[id(parameter)] == 0}
    expected = {name for name, _ in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name}
    assert without == expected
    assert set(decay.values()) == {0.0, 0.1}


def test_weights_without_gradient_shrink_and_biases_do_not():
    model = nn.Linear(2, 2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    SGD(parameter_groups(model), lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(model.weight, before["weight"] * 0.95)
    assert torch.equal(model.bias, before["bias"])


def test_frozen_parameters_are_left_out():
    model = tiny_bert()
    model.bert.requires_grad_(False)
    grouped = {id(parameter) for group in parameter_groups(model) for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.classifier.parameters()}


def test_no_group_is_empty():
    assert [len(group["params"]) for group in parameter_groups(nn.Linear(2, 2, bias=False))] == [1]
    assert [len(group["params"]) for group in parameter_groups(nn.LayerNorm(2))] == [2]


def test_shared_parameters_are_grouped_once():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    assert [len(group["params"]) for group in parameter_groups(nn.Sequential(first, second))] == [1, 2]
