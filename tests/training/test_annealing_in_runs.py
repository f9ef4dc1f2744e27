"""Weights and temperatures that change, in whole runs."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, IterableDataset

from lightning_kd import DistillationModule
from lightning_kd.callbacks import LastCheckpoint, StudentExport
from lightning_kd.losses import DistillationLoss, HardLabelLoss, Schedule, SoftTargetLoss
from tests.helpers import KillAtBatch, KilledError, data, module, save_model, tiny_bert, trainer
from tests.training.test_resume import BATCHES, EPOCHS

STEPS = EPOCHS * BATCHES


def losses():
    return {"hard": HardLabelLoss(Schedule(0, 1)), "soft": SoftTargetLoss(1.0, Schedule(8, 1, until=0.5))}


class StepRecorder(Callback):
    """What each step logged, with the numbers of the losses while it was computed."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = {name: (loss.weight, getattr(loss, "temperature", None)) for name, loss in pl_module.losses.items()}
        self.steps.append((now, {name: value.item() for name, value in trainer.callback_metrics.items()}))


@pytest.fixture
def teacher(tmp_path):
    return save_model(tiny_bert(layers=2, seed=1), tmp_path / "teacher")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_schedules_follow_the_optimizer_steps(tmp_path, clinc_file, teacher, accumulate):
    recorder = StepRecorder()
    fit = trainer(tmp_path, max_epochs=EPOCHS, callbacks=[recorder], accumulate_grad_batches=accumulate)
    fit.fit(module(teacher, losses=losses()), data(clinc_file))
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


def run(folder, clinc_file, teacher, kill=None, resume=None, **end):
    callbacks = [LastCheckpoint(0), *([KillAtBatch(kill)] if kill is not None else [])]
    fit = trainer(folder, callbacks=callbacks, enable_checkpointing=True, **(end or {"max_epochs": EPOCHS}))
    fitted = module(teacher, losses=losses(), lr_scheduler=None)
    try:
        fit.fit(fitted, data(clinc_file), ckpt_path=resume)
    except KilledError:
        assert kill is not None
    return fitted


@pytest.mark.parametrize(
    "end", [{"max_epochs": EPOCHS}, {"max_epochs": -1, "max_steps": STEPS}], ids=["epochs", "steps"]
)
def test_resumed_run_ends_in_the_same_weights(tmp_path, clinc_file, teacher, end):
    expected = run(tmp_path / "whole", clinc_file, teacher, **end).student.state_dict()
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    for kill in (4, 14, 18, None):
        resume = last if last.exists() else None
        fitted = run(tmp_path / "killed", clinc_file, teacher, kill, resume, **end)
    assert fitted.losses["hard"].weight == pytest.approx((STEPS - 1) / STEPS)
    assert all(torch.equal(tensor, fitted.student.state_dict()[name]) for name, tensor in expected.items())


def test_checkpoint_loads_and_card_says_the_schedule(tmp_path, clinc_file, teacher):
    fit = trainer(tmp_path, callbacks=[StudentExport()])
    fit.fit(module(teacher, losses=losses()), data(clinc_file))
    fit.save_checkpoint(tmp_path / "x.ckpt")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert loaded.losses["hard"].schedules == {"weight": Schedule(0, 1)}
    assert loaded.losses["soft"].schedules == {"temperature": Schedule(8, 1, 0.5)}
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert "| hard | HardLabelLoss | 0 to 1 (linear) | label_smoothing 0.0, tsa_threshold 1.0 |" in card
    assert "| SoftTargetLoss | 1.0 | temperature 8 to 1 (linear by 50% of the steps), beta 0.0" in card


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield {"input_ids": torch.tensor([2, 7, 3]), "labels": torch.tensor(0)}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_run_without_a_known_end_is_refused(tmp_path):
    fitted = module(
        losses={"hard": HardLabelLoss(Schedule(0, 1))}, lr_scheduler=None, label_names=["greet", "leave", "oos"]
    )
    fit = trainer(tmp_path, max_epochs=1)
    message = (
        r"losses\.hard: a schedule needs the number of steps.*no known end; set trainer\.max_steps, .*give a number"
    )
    with pytest.raises(ValueError, match=message):
        fit.fit(fitted, DataLoader(Endless(), batch_size=2))
    assert fit.global_step == 0


CONFIG = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
    "model": {
        "task": "SequenceClassification",
        "losses": {
            "hard": {"class_path": "HardLabelLoss", "init_args": {"weight": {"start": 0, "end": 1}}},
            "soft": {"class_path": "SoftTargetLoss", "init_args": {"temperature": {"start": 8, "end": 1}}},
        },
        "ignore_checks": ["weak_teacher"],
    },
    "data": {"class_path": "CLINC150DataModule", "init_args": {"batch_size": 24, "max_length": 32}},
}


def test_schedule_from_the_shell(tmp_path, clinc_file, teacher, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = json.loads(json.dumps(CONFIG))
    config["model"] |= {"teacher": teacher, "student": {"config": teacher, "num_hidden_layers": 1}}
    config["data"]["init_args"]["path"] = str(clinc_file)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    override = "--model.losses.soft.init_args.temperature={start: 4, end: 2, shape: cosine}"
    code, last = shell("fit", "--config", "c.yaml", override)
    assert code == 0, last
    folder = Path("lightning_logs/version_0")
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]["losses"]
    assert saved["hard"]["init_args"]["weight"] == {"start": 0, "end": 1, "until": 1.0, "shape": "linear"}
    loaded = DistillationModule.load_from_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert loaded.losses["soft"].schedules == {"temperature": Schedule(4, 2, shape="cosine")}
    code, last = shell("test", "--config", folder / "config.yaml", f"--ckpt_path={folder}/checkpoints/best.ckpt")
    assert code == 0, last


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("temperature={start: 4, end: 0}", "temperature must be > 0, got 0"),
        ("weight={start: 4}", "end"),
        ("temperature={start: 4, finish: 0}", "finish"),
        ("weight={start: 1, end: 0, until: 3}", "until must be in"),
    ],
)
def test_bad_schedule_from_the_shell(tmp_path, clinc_file, teacher, shell, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    config = {**CONFIG, "model": {**CONFIG["model"], "teacher": teacher, "student": teacher}}
    config["data"]["init_args"]["path"] = str(clinc_file)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    code, last = shell("fit", "--config", "c.yaml", f"--model.losses.soft.init_args.{argument}")
    assert code != 0
    assert message in last


def test_own_loss_with_a_schedule(tmp_path, clinc_file):
    class Own(DistillationLoss):
        requires_teacher = False

        def forward(self, student, teacher):
            return student.heads["label"].logits.float().square().mean()

    recorder = StepRecorder()
    fit = trainer(tmp_path, callbacks=[recorder])
    fit.fit(module(losses={"hard": HardLabelLoss(), "own": Own(Schedule(1, 0))}), data(clinc_file))
    assert [now["own"][0] for now, _ in recorder.steps] == pytest.approx(
        [1 - step / BATCHES for step in range(BATCHES)]
    )
