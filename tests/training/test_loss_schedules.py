import math

import pytest
import yaml
from lightning.pytorch import Callback

from lightning_kd import DistillationModule, QuestionAnswering, Schedule
from lightning_kd.callbacks import StudentExport
from lightning_kd.losses import DecoupledKDLoss, DistillationLoss, DISTLoss, HardLabelLoss, SoftTargetLoss
from lightning_kd.training.loss_schedules import apply_schedules, resolve_schedules
from tests.helpers import data, module, trainer, version_dir

EPOCHS, STEPS = 3, 27
SCHEDULES = {"hard": {"weight": Schedule(0, 1)}, "soft": {"temperature": Schedule(8, 1, until=0.5)}}


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Schedule(8, 1), [8, 6.25, 4.5, 2.75, 1]),
        (Schedule(0, 1), [0, 0.25, 0.5, 0.75, 1]),
        (Schedule(8, 1, until=0.5), [8, 4.5, 1, 1, 1]),
        (Schedule(16, 1, shape="exponential"), [16, 8, 4, 2, 1]),
        (Schedule(0, 1, shape="saturating"), [math.expm1(-5 * n / 4) / math.expm1(-5) for n in range(5)]),
        (Schedule(2, 0, shape="cosine"), [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0]),
    ],
    ids=str,
)
def test_values_over_the_run(schedule, values):
    actual = [schedule.at(progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert actual == pytest.approx(values)
    assert schedule.at(1.5) == pytest.approx(values[-1])  # a resumed run with fewer steps than before
    assert all(type(value) is float for value in actual)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ({"start": math.nan, "end": 1}, "start", "nan"),
        ({"start": 1, "end": math.inf}, "end", "inf"),
        ({"start": 8, "end": 1, "until": 0}, "until", "0"),
        ({"start": 8, "end": 1, "until": 5}, "until", "5"),
        ({"start": 8, "end": 1, "shape": "step"}, "shape", "'step'"),
        ({"start": 1, "end": 0, "shape": "exponential"}, "shape exponential", "0"),
    ],
)
def test_invalid_schedule(arguments, field, value):
    with pytest.raises(ValueError, match=f"Schedule: .*{field}.*{value}"):
        Schedule(**arguments)


class CustomLoss(DistillationLoss):
    def __init__(self, weight=1.0, scale=1.0):
        super().__init__(weight)
        self.scale = scale


def test_scheduled_arguments_are_set_and_others_stay():
    losses = {"soft": SoftTargetLoss(0.5), "custom": CustomLoss()}
    schedules = resolve_schedules(
        {"soft": {"temperature": {"start": 9, "end": 1}}, "custom": {"scale": Schedule(0, 2)}}, losses
    )
    assert schedules == {"soft": {"temperature": Schedule(9, 1)}, "custom": {"scale": Schedule(0, 2)}}
    assert apply_schedules(schedules, losses, 0.5) == {"soft_temperature": 5, "custom_scale": 1}
    assert (losses["soft"].weight, losses["soft"].temperature) == (0.5, 5)
    assert (losses["custom"].weight, losses["custom"].scale) == (1, 1)


class WithoutAttributes(DistillationLoss):
    def __init__(self, weight=1.0, other=2.0):
        super().__init__(weight)


@pytest.mark.parametrize(
    ("loss", "argument", "schedule", "message"),
    [
        (SoftTargetLoss(), "temperature", Schedule(8, 0), "temperature must be > 0 and <= 1000, got 0"),
        (DecoupledKDLoss(), "temperature", Schedule(-1, 1), "temperature must be > 0 and <= 1000, got -1"),
        (HardLabelLoss(), "weight", Schedule(1, -0.1), r"weight must be a finite number >= 0, got -0\.1"),
        (SoftTargetLoss(top_k=3), "top_k", Schedule(3, 1), ".*temperature"),
        (HardLabelLoss(), "temperature", Schedule(8, 1), ".*tsa_threshold"),
        (HardLabelLoss(), "weight", {"start": 1, "end": 0, "stop": 1}, ".*stop"),
        (WithoutAttributes(), "weight", Schedule(0, 1), "WithoutAttributes"),
    ],
)
def test_schedule_that_does_not_fit_the_loss(loss, argument, schedule, message):
    with pytest.raises(ValueError, match=rf"^loss_schedules\.some\.{argument}: .*{message}"):
        resolve_schedules({"some": {argument: schedule}}, {"some": loss})


def test_schedule_of_an_unknown_loss():
    with pytest.raises(ValueError, match=r"loss_schedules\.sfot: .*soft"):
        resolve_schedules({"sfot": {"weight": Schedule(0, 1)}}, {"soft": SoftTargetLoss()})


# ---- whole runs


class StepRecorder(Callback):
    """Records the logged values and the losses' arguments of each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = {name: (loss.weight, getattr(loss, "temperature", None)) for name, loss in pl_module.losses.items()}
        self.steps.append((now, {name: value.item() for name, value in trainer.callback_metrics.items()}))


def scheduled_module(teacher):
    losses = {"hard": HardLabelLoss(), "soft": SoftTargetLoss(1.0)}
    return module(teacher, losses=losses, loss_schedules=SCHEDULES)


def test_schedule_that_starts_to_compare_examples_is_rejected_for_positions():
    schedules = {"d": {"intra_weight": Schedule(0, 1)}}
    module(losses={"d": DISTLoss(intra_weight=0)}, loss_schedules=schedules)
    with pytest.raises(ValueError, match=r"losses\.d: .*QuestionAnswering"):
        module(task=QuestionAnswering(), losses={"d": DISTLoss(intra_weight=0)}, loss_schedules=schedules)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_schedules_follow_the_optimizer_steps(tmp_path, clinc_file, teacher_folder, accumulate):
    recorder = StepRecorder()
    fit = trainer(tmp_path, max_epochs=EPOCHS, callbacks=[recorder], accumulate_grad_batches=accumulate)
    fit.fit(scheduled_module(teacher_folder), data(clinc_file))
    assert len(recorder.steps) == STEPS
    for batch, (now, logged) in enumerate(recorder.steps):
        progress = (batch // accumulate) / (STEPS / accumulate)
        assert now["hard"][0] == pytest.approx(progress)
        assert now["soft"][1] == pytest.approx(max(8 - 14 * progress, 1))
        assert logged["train/hard_weight"] == pytest.approx(progress)
        assert logged["train/soft_temperature"] == pytest.approx(max(8 - 14 * progress, 1))
        assert "train/soft_weight" not in logged
        total = progress * logged["train/hard"] + logged["train/soft"]
        assert logged["train/loss"] == pytest.approx(total, rel=1e-5)


def test_schedules_are_in_the_checkpoint_and_the_model_card(tmp_path, clinc_file, teacher_folder):
    fit = trainer(tmp_path, callbacks=[StudentExport()])
    fit.fit(scheduled_module(teacher_folder), data(clinc_file))
    fit.save_checkpoint(tmp_path / "x.ckpt")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert loaded.loss_schedules == SCHEDULES
    assert (loaded.losses["hard"].weight, loaded.losses["soft"].temperature) == (0, 8)
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert "| hard | HardLabelLoss | 0 to 1 (linear) | label_smoothing 0.0, tsa_threshold 1.0 |" in card
    assert "| SoftTargetLoss | 1.0 | temperature 8 to 1 (linear by 50% of the steps), beta 0.0" in card


def test_schedule_from_the_command_line(tmp_path, config, shell):
    schedule = "{weight: {start: 4, end: 2, shape: cosine}, tsa_threshold: {start: 0, end: 1}}"
    assert shell("fit", "--config", config, f"--model.loss_schedules.hard={schedule}") == (0, "")
    saved = yaml.safe_load((version_dir(tmp_path) / "config.yaml").read_text(encoding="utf-8"))["model"]
    assert saved["loss_schedules"]["hard"]["tsa_threshold"] == {"start": 0, "end": 1, "until": 1.0, "shape": "linear"}
    best = version_dir(tmp_path) / "checkpoints" / "best.ckpt"
    loaded = DistillationModule.load_from_checkpoint(best)
    assert loaded.loss_schedules["hard"]["weight"] == Schedule(4, 2, shape="cosine")
    assert shell("test", "--config", version_dir(tmp_path) / "config.yaml", f"--ckpt_path={best}") == (0, "")


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("{weight: {start: 4, end: -1}}", "loss_schedules.hard.weight: HardLabelLoss: weight must be"),
        ("{weight: {start: 4}}", "end"),
        ("{weight: {start: 4, finish: 0}}", "finish"),
    ],
)
def test_bad_schedule_from_the_command_line(config, shell, schedule, message):
    code, last = shell("fit", "--config", config, f"--model.loss_schedules.hard={schedule}")
    assert code != 0
    assert message in last
