import math

import pytest
import torch

from lightning_kd.io.serialization import from_config, to_config
from lightning_kd.losses import DecoupledKDLoss, DistillationLoss, DISTLoss, HardLabelLoss, Schedule, SoftTargetLoss
from lightning_kd.losses.soft_target import soft_target_loss
from lightning_kd.outputs import Head, Outputs


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Schedule(8, 1), [8, 6.25, 4.5, 2.75, 1]),
        (Schedule(0, 1), [0, 0.25, 0.5, 0.75, 1]),
        (Schedule(8, 1, until=0.5), [8, 4.5, 1, 1, 1]),
        (Schedule(16, 1, shape="exponential"), [16, 8, 4, 2, 1]),
        (Schedule(2, 0, shape="cosine"), [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0]),
    ],
    ids=str,
)
def test_values_over_the_run(schedule, values):
    actual = [schedule.at(progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert actual == pytest.approx(values)
    assert schedule.at(1.5) == pytest.approx(values[-1])  # a resumed run that is made longer than it was
    assert all(type(value) is float for value in actual)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": math.nan, "end": 1}, "start and end must be finite numbers, got nan and 1"),
        ({"start": 1, "end": math.inf}, "start and end must be finite numbers, got 1 and inf"),
        ({"start": 8, "end": 1, "until": 0}, r"until must be in \(0, 1\], a share of the steps, got 0"),
        ({"start": 8, "end": 1, "until": 5}, r"until must be in \(0, 1\], a share of the steps, got 5"),
        ({"start": 8, "end": 1, "shape": "step"}, "shape must be one of linear, .*, got 'step'"),
        (
            {"start": 1, "end": 0, "shape": "exponential"},
            "exponential never reaches or leaves 0, got 1 to 0; use linear",
        ),
    ],
)
def test_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"Schedule: {message}"):
        Schedule(**arguments)


def test_what_people_read():
    assert str(Schedule(8, 1)) == "8 to 1 (linear)"
    assert str(Schedule(0.5, 0, 0.25, "cosine")) == "0.5 to 0 (cosine by 25% of the steps)"


def test_loss_begins_at_the_start_and_follows():
    loss = SoftTargetLoss(weight=Schedule(1, 0, shape="cosine"), temperature=Schedule(9, 1))
    assert (loss.weight, loss.temperature) == (1, 9)
    assert loss.apply_schedules(0.5) == {"weight": pytest.approx(0.5), "temperature": 5}
    assert (loss.weight, loss.temperature) == (pytest.approx(0.5), 5)
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).unbind()
    actual = loss(Outputs({"label": Head(student)}), Outputs({"label": Head(teacher)}))
    assert actual == soft_target_loss(student, teacher, 5.0)


def test_numbers_stay():
    loss = HardLabelLoss(0.5)
    assert loss.apply_schedules(0.5) == {}
    assert loss.weight == 0.5


@pytest.mark.parametrize("cls", [SoftTargetLoss, DecoupledKDLoss, DISTLoss])
@pytest.mark.parametrize("temperature", [Schedule(8, 0), Schedule(-1, 1), 0, math.nan])
def test_temperature_must_stay_above_zero(cls, temperature):
    with pytest.raises(ValueError, match=f"{cls.__name__}: temperature must be > 0, got"):
        cls(temperature=temperature)


def test_weight_must_not_become_negative():
    with pytest.raises(ValueError, match=r"HardLabelLoss: weight must be a finite number >= 0, got -0\.1"):
        HardLabelLoss(Schedule(1, -0.1))


class CustomLoss(DistillationLoss):
    """As people write them: the base takes the weight."""


@pytest.mark.parametrize(
    "loss",
    [
        HardLabelLoss(Schedule(0, 1)),
        SoftTargetLoss(temperature=Schedule(8, 1, 0.5, "exponential"), standardize=True, top_k=5),
        DecoupledKDLoss(weight=Schedule(0, 1, 0.1), temperature=Schedule(4, 1)),
        DISTLoss(temperature=Schedule(4, 1), intra_weight=2.0),
        CustomLoss(Schedule(1, 0)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_checkpoint_holds_the_schedule_and_not_the_value_of_the_moment(loss, tmp_path):
    before = to_config(loss)
    loss.apply_schedules(0.7)
    assert to_config(loss) == before
    torch.save(before, tmp_path / "plain.pt")
    copy = from_config(torch.load(tmp_path / "plain.pt", weights_only=True), DistillationLoss, "losses.some")
    assert copy.schedules == loss.schedules != {}
    assert copy.apply_schedules(0.7) == loss.apply_schedules(0.7)
    assert to_config(copy) == before
