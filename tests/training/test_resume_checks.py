"""What is applied, and what is refused, when a run is resumed with other settings."""

import json
import shutil
from functools import partial

import pytest
import torch

from lightning_kd import DistillationModule, Schedule, SequenceClassification
from lightning_kd.callbacks import LastCheckpoint
from lightning_kd.losses import DISTLoss, HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.helpers import (
    STUDENT,
    TINY_BERT,
    KillAtBatch,
    KilledError,
    clinc_rows,
    data,
    module,
    save_model,
    tiny_bert,
    trainer,
)

ADAMW = partial(torch.optim.AdamW, lr=1e-2)
LOSSES = {"hard": HardLabelLoss(0.5), "soft": SoftTargetLoss(0.5, 2.0)}


@pytest.fixture
def wide_teacher(tmp_path):
    return save_model(tiny_bert(layers=2, seed=1, hidden_size=32), tmp_path / "teacher")


@pytest.fixture
def run(tmp_path, clinc_file, wide_teacher):
    """Train for 5 of 18 steps, kill the run, and resume it with other settings; return the module."""

    def resume(module_settings=None, data_settings=None, at=5, first=None, **trainer_settings):
        callbacks = [LastCheckpoint(0.0), KillAtBatch(at)]
        killed = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_epochs=2)
        with pytest.raises(KilledError):
            killed.fit(make(**(first or {})), data(clinc_file))
        settings = {**(first or {}), **(module_settings or {})}
        resumed = trainer(tmp_path, **{"max_epochs": 2, **trainer_settings})
        fitted = make(**settings)
        resumed.fit(
            fitted, data(**{"path": clinc_file, **(data_settings or {})}), ckpt_path=tmp_path / "checkpoints/last.ckpt"
        )
        return fitted

    def make(**settings):
        return module(**{"teacher": wide_teacher, "losses": LOSSES, "optimizer": ADAMW, **settings})

    return resume


APPLIED = {
    "lr": ({"optimizer": partial(torch.optim.AdamW, lr=2e-2)}, {}, "optimizer.lr: 0.01 → 0.02 from step 5 on"),
    "decay": (
        {"optimizer": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5)},
        {},
        "optimizer.weight_decay: 0.01 → 0.5 ",
    ),
    "schedule": ({"lr_scheduler": "cosine"}, {}, "lr_scheduler: linear → cosine "),
    "no_schedule": ({"lr_scheduler": None}, {}, "lr_scheduler: linear → None "),
    "epochs": ({}, {"max_epochs": 3}, "trainer.max_epochs: 2 → 3 "),
    "clipping": ({}, {"gradient_clip_val": 0.5}, "trainer.gradient_clip_val: None → 0.5 "),
    "temperature": (
        {"losses": {"hard": HardLabelLoss(0.5), "soft": SoftTargetLoss(0.5, 4.0)}},
        {},
        "losses.soft.temperature: 2.0 → 4.0 ",
    ),
    "added": ({"losses": {**LOSSES, "dist": DISTLoss()}}, {}, "losses.dist: none → lightning_kd.losses.DISTLoss "),
    "removed": ({"losses": {"soft": SoftTargetLoss(0.5, 2.0)}}, {}, "losses.hard: lightning_kd.losses.HardLabelLoss"),
    "ramp": (
        {"loss_schedules": {"soft": {"weight": Schedule(0, 1)}}},
        {},
        "loss_schedules.soft.weight: none → 0 to 1 (linear) ",
    ),
}


@pytest.mark.parametrize(("settings", "trainer_settings", "line"), APPLIED.values(), ids=APPLIED)
def test_numbers_are_applied(run, caplog, settings, trainer_settings, line):
    caplog.set_level("INFO")
    fitted = run(settings, **trainer_settings)
    lines = [record.message for record in caplog.records if "→" in record.message]
    assert sum(text.startswith(line) for text in lines) == 1
    assert len(lines) == 1
    assert fitted.global_step == 9 * fitted.trainer.max_epochs


def test_the_learning_rate_follows_the_new_schedule(run):
    fitted = run(
        {"optimizer": partial(torch.optim.AdamW, lr=2e-2), "lr_scheduler": "cosine"}, max_epochs=3, max_steps=6
    )
    (group, _), schedule = fitted.trainer.optimizers[0].param_groups, fitted.trainer.lr_scheduler_configs[0].scheduler
    assert group["lr"] == pytest.approx(2e-2 * schedule.lr_lambdas[0](6)) == schedule.get_last_lr()[0]
    assert schedule.last_epoch == 6
    assert group["initial_lr"] == 2e-2


def test_a_schedule_added_within_a_run_continues_at_its_step(run):
    fitted = run({"lr_scheduler": "linear"}, first={"lr_scheduler": None}, max_steps=6, max_epochs=-1)
    assert fitted.trainer.optimizers[0].param_groups[0]["lr"] == 0  # 6 of 6 steps


NOTHING_SAID = {"num_workers": 0, "eval_batch_size": 3}


def test_nothing_is_said_of_paths_and_speed(tmp_path, run, clinc_file, wide_teacher, caplog):
    caplog.set_level("INFO")
    moved = shutil.copytree(wide_teacher, tmp_path / "moved teacher")
    file = shutil.copy(clinc_file, tmp_path / "moved.json")
    run({"teacher": str(moved), "teacher_cache": str(tmp_path / "cache")}, {"path": file, **NOTHING_SAID})
    assert [record.message for record in caplog.records if "→" in record.message] == []


class OtherTask(SequenceClassification):
    pass


PROJECTED = {"hidden": HiddenStateMSELoss(0.1)}
REFUSED = {
    "optimizer": (
        {"optimizer": partial(torch.optim.SGD, lr=0.1)},
        r"^optimizer: torch.optim.AdamW in .*, torch.optim.SGD",
    ),
    "task": ({"task": OtherTask()}, r"^task: .*SequenceClassification in the checkpoint, .*OtherTask in this call"),
    "layers": (
        {"student": {"config": str(TINY_BERT), "num_hidden_layers": 2, "hidden_size": 16}},
        "^student.num_hidden_layers: 1 .*, 2 ",
    ),
    "projection": ({"losses": {**LOSSES, **PROJECTED}}, "^losses.hidden: none in the checkpoint"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_other_models_are_refused(run, settings, message):
    with pytest.raises(ValueError, match=message + ".*start a new run"):
        run(settings)


def test_removed_projection_is_refused(run):
    with pytest.raises(ValueError, match=r"^losses.hidden: .*HiddenStateMSELoss in the checkpoint, none in this call"):
        run({"losses": LOSSES}, first={"losses": {**LOSSES, **PROJECTED}})


def test_changed_teacher(tmp_path, run):
    other = save_model(tiny_bert(layers=4, seed=5), tmp_path / "other")
    with pytest.raises(ValueError, match=r"^teacher: .*--model.ignore_checks\+=changed_teacher"):
        run({"teacher": other})
    fitted = run({"teacher": other, "ignore_checks": ["weak_teacher", "changed_teacher"]})
    assert fitted.hparams["ignore_checks"] == ["weak_teacher"]


def changed_rows(tmp_path, change):
    rows = clinc_rows()
    change(rows["train"])
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda rows: rows.pop(), "^data.path: 72 training examples in .*, 71 .* first that differs is number 48"),
        (lambda rows: rows.__setitem__(3, ["hello you", "greet"]), "^data.path: 72 .*, 72 .*differs is number 4; "),
        ({"max_length": 6}, "^data.max_length: 32 in the checkpoint, 6 in this call"),
    ],
    ids=["removed", "edited", "shorter"],
)
def test_changed_data(tmp_path, run, settings, message):
    changed = {"path": changed_rows(tmp_path, settings)} if callable(settings) else settings
    with pytest.raises(ValueError, match=message + r".*ignore_checks\+=changed_data"):
        run(data_settings=changed)
    run({"ignore_checks": ["weak_teacher", "changed_data"]}, changed)


def test_other_batches_are_refused_within_an_epoch_only(run):
    with pytest.raises(
        ValueError, match=r"^data.batch_size: 8 .*, 4 in this call.*end of the epoch.*ignore_checks\+=changed_batches"
    ):
        run(data_settings={"batch_size": 4})
    assert run(data_settings={"batch_size": 4}, at=9).global_step == 9 + 18


def test_an_epoch_begins_again_with_other_batches(run):
    fitted = run({"ignore_checks": ["weak_teacher", "changed_batches"]}, {"batch_size": 4})
    assert fitted.global_step == 5 + 2 * 18
    assert fitted.trainer.current_epoch == 2


class OwnOptimizer(DistillationModule):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def test_own_optimizers_keep_the_numbers_of_the_checkpoint(tmp_path, clinc_file):
    settings = {"task": SequenceClassification(), "student": STUDENT, "losses": {"hard": HardLabelLoss()}}
    first = trainer(tmp_path)
    first.fit(OwnOptimizer(**settings), data(clinc_file))
    first.save_checkpoint(tmp_path / "x.ckpt")
    resumed = trainer(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match=r"^optimizer: configured outside of DistillationModule"):
        resumed.fit(OwnOptimizer(**settings), data(clinc_file), ckpt_path=tmp_path / "x.ckpt")
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)


def test_other_data_begin_the_epoch_again(tmp_path, run):
    changed = {"path": changed_rows(tmp_path, lambda rows: rows.__delitem__(slice(8, None)))}
    fitted = run({"ignore_checks": ["weak_teacher", "changed_data"]}, changed, at=8)
    assert fitted.global_step == 8 + 2 * 4  # 8 of 9 batches; then twice the 32 examples that are left
