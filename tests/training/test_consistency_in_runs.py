"""Consistency training in whole runs: resumed, with a teacher's cache, from YAML."""

import json
from contextlib import nullcontext

import pytest
import torch

from lightning_kd.callbacks import LastCheckpoint
from lightning_kd.data import TfIdfReplacement
from lightning_kd.losses import ConsistencyLoss, HardLabelLoss, SoftTargetLoss
from lightning_kd.training.loss_schedules import Schedule
from tests.helpers import TINY_BERT, KillAtBatch, KilledError, clinc_rows, data, module, trainer


@pytest.fixture
def partly_labeled_file(tmp_path):
    rows = clinc_rows()
    for key in ("train", "oos_train"):
        rows[key] = [[text, label if number % 3 == 0 else None] for number, (text, label) in enumerate(rows[key])]
    file = tmp_path / "data_oos_plus.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def augmented_data(file, **settings):
    return data(file, allow_unlabeled=True, augmentation=TfIdfReplacement(0.5), **settings)


# the weight rises and labels come in little by little
SCHEDULES = {"hard": {"tsa_threshold": Schedule(0.5, 1)}, "same": {"weight": Schedule(0.5, 2)}}


def losses():
    return {
        "hard": HardLabelLoss(),
        "same": ConsistencyLoss(confidence=0.0, temperature=0.8),
        "soft": SoftTargetLoss(0.1),
    }


def test_all_terms_are_logged_and_the_parts_sum_to_the_total(tmp_path, partly_labeled_file, teacher_folder):
    run = trainer(tmp_path, max_epochs=2)
    fitted = module(teacher_folder, losses=losses(), loss_schedules=SCHEDULES)
    run.fit(fitted, augmented_data(partly_labeled_file))
    logged = run.callback_metrics
    total = sum(fitted.losses[n].weight * logged[f"train/{n}"] for n in ("hard", "same", "soft"))
    assert float(logged["train/loss"]) == pytest.approx(float(total), rel=1e-5)
    assert logged["train/same"] > 0
    assert 1 < logged["train/same_weight"] < 2
    assert "val/hard" in logged
    assert "val/same" not in logged  # rows to score are not worded anew


def test_resumed_run_ends_in_the_same_weights(tmp_path, partly_labeled_file, teacher_folder):
    def fit(folder, kill=None, resume=None):
        fitted = module(
            teacher_folder, losses=losses(), loss_schedules=SCHEDULES, teacher_cache=str(tmp_path / "cache")
        )
        callbacks = [LastCheckpoint(0.0), *([KillAtBatch(kill)] if kill else [])]
        run = trainer(folder, callbacks=callbacks, max_epochs=2, enable_checkpointing=True)
        with pytest.raises(KilledError) if kill else nullcontext():
            run.fit(fitted, augmented_data(partly_labeled_file), ckpt_path=resume)
        return fitted.student.state_dict()

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "killed", kill=11)
    (last,) = (tmp_path / "killed").rglob("last.ckpt")
    resumed = fit(tmp_path / "killed", resume=str(last))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_missing_augmentation_is_refused_and_unused_augmentation_warned_about(tmp_path, partly_labeled_file):
    fitted = module(losses={"hard": HardLabelLoss(), "same": ConsistencyLoss()})
    with pytest.raises(ValueError, match=r"losses\.same: .*data\.augmentation"):
        trainer(tmp_path).fit(fitted, data(partly_labeled_file, allow_unlabeled=True))
    (tmp_path / "whole.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"data\.augmentation: no loss reads"):
        trainer(tmp_path, max_steps=1).fit(module(), data(tmp_path / "whole.json", augmentation=TfIdfReplacement()))


def test_from_yaml(tmp_path, partly_labeled_file, shell):
    config = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": str(tmp_path / "runs")},
        "model": {
            "task": "SequenceClassification",
            "student": {"config": str(TINY_BERT), "num_hidden_layers": 1},
            "losses": {
                "hard": {"class_path": "HardLabelLoss"},
                "same": {"class_path": "ConsistencyLoss", "init_args": {"confidence": 0.45}},
            },
            "loss_schedules": {"hard": {"tsa_threshold": {"start": 0, "end": 1, "shape": "saturating"}}},
        },
        "data": {
            "class_path": "CLINC150DataModule",
            "init_args": {
                "path": str(partly_labeled_file),
                "allow_unlabeled": True,
                "augmentation": {"class_path": "TfIdfReplacement", "init_args": {"probability": 0.2}},
            },
        },
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    code, message = shell("fit", "--config", tmp_path / "run.yaml")
    assert code == 0, message
    saved = torch.load(tmp_path / "runs/lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["loss_schedules"]["hard"]["tsa_threshold"]["shape"] == "saturating"
