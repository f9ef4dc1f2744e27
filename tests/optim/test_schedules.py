import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from lightning_kd.optim.schedules import LR_SCHEDULERS, build_lr_scheduler, check_lr_scheduler, parameter_groups
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


def rates(name, warmup_ratio, steps, peak=0.5):
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=peak)
    scheduler = build_lr_scheduler(name, optimizer, warmup_ratio, steps)
    values = []
    for _ in range(int(steps)):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values, optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("warmup_ratio", [0, 0.06, 1])
@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_every_lr_scheduler_steps_to_the_end(name, warmup_ratio):
    if name != "constant":
        check_lr_scheduler(name, warmup_ratio)
    values, last = rates(name, warmup_ratio, 50.0)
    assert all(0 <= value <= 0.5 for value in [*values, last])
    assert max(*values, last) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.06, 0.25, 1.0])
def test_linear_closed_form(warmup_ratio):
    steps, warmup = 100, min(round(warmup_ratio * 100), 99)
    values, last = rates("linear", warmup_ratio, steps)
    rising = [0.5 * step / warmup for step in range(warmup)]
    falling = [0.5 * (steps - step) / (steps - warmup) for step in range(warmup, steps)]
    assert values == pytest.approx(rising + falling)
    assert last == 0


def test_cosine_closed_form():
    values, last = rates("cosine", 0.1, 100)
    falling = [0.25 * (1 + math.cos(math.pi * (step - 10) / 90)) for step in range(10, 100)]
    assert values[10:] == pytest.approx(falling)
    assert last == pytest.approx(0, abs=1e-12)


def test_no_lr_scheduler_passes():
    check_lr_scheduler(None, 0.0)


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "warmup_stable_decay", "Linear", ""])
def test_lr_scheduler_that_cannot_be_built_is_refused(name):
    with pytest.raises(
        ValueError, match=f"lr_scheduler: unknown schedule '{name}'; use null or one of linear, cosine,"
    ):
        check_lr_scheduler(name, 0.0)


@pytest.mark.parametrize("name", ["constant", None])
def test_warmup_that_would_be_ignored_is_refused(name):
    with pytest.raises(ValueError, match="has no warm-up"):
        check_lr_scheduler(name, 0.1)


@pytest.mark.parametrize("warmup_ratio", [1.5, -0.1, math.nan, math.inf])
def test_warmup_ratio_out_of_range_is_refused(warmup_ratio):
    with pytest.raises(ValueError, match=rf"warmup_ratio: must be in \[0, 1\], got {warmup_ratio}"):
        check_lr_scheduler("linear", warmup_ratio)


@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_endless_run_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match=rf"'{name}' .*trainer\.max_steps, .*trainer\.max_epochs .*or lr_scheduler to"):
        build_lr_scheduler(name, SGD(nn.Linear(1, 1).parameters(), lr=0.1), 0.0, math.inf)
