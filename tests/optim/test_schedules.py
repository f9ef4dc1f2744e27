"""Learning rate schedules against closed forms, and the arguments that they reject."""

import math

import pytest
from torch import nn
from torch.optim import SGD

from lightning_kd.optim.schedules import LR_SCHEDULERS, build_lr_scheduler, check_lr_scheduler


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


@pytest.mark.parametrize(("warmup_ratio", "warmup"), [(0.0, 0), (0.06, 6), (0.062, 7), (0.25, 25), (1.0, 99)])
def test_linear_closed_form(warmup_ratio, warmup):
    steps = 100
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


def test_no_lr_scheduler():
    check_lr_scheduler(None, 0.0)


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "warmup_stable_decay", "Linear", ""])
def test_unknown_lr_scheduler(name):
    with pytest.raises(ValueError, match=f"lr_scheduler: .*'{name}'.* linear, cosine,"):
        check_lr_scheduler(name, 0.0)


@pytest.mark.parametrize("name", ["constant", None])
def test_warmup_without_effect(name):
    with pytest.raises(ValueError, match=r"warmup_ratio: .*0\.1"):
        check_lr_scheduler(name, 0.1)


@pytest.mark.parametrize("warmup_ratio", [1.5, -0.1, math.nan, math.inf])
def test_warmup_ratio_out_of_range(warmup_ratio):
    with pytest.raises(ValueError, match=rf"warmup_ratio: must be in \[0, 1\], got {warmup_ratio}"):
        check_lr_scheduler("linear", warmup_ratio)


@pytest.mark.parametrize("total_steps", [math.inf, -1])  # Lightning returns -1 for a loader without length
def test_run_without_a_known_end(total_steps):
    with pytest.raises(ValueError, match=r"lr_scheduler: 'linear' .*trainer\.max_steps"):
        build_lr_scheduler("linear", SGD(nn.Linear(1, 1).parameters(), lr=0.1), 0.0, total_steps)
