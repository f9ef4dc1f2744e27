"""Runs whose best epoch is not the last."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.helpers import clinc_rows, data, module, save_model, tiny_bert, trainer


class FlipClassifierHead(Callback):
    """Turns the student's head around before the last epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == trainer.max_epochs - 1:
            with torch.no_grad():
                pl_module.student.classifier.weight.mul_(-1)
                pl_module.student.classifier.bias.mul_(-1)


def best_checkpoint(**settings):
    return ModelCheckpoint(**{"monitor": "val/accuracy", "mode": "max", "filename": "best", **settings})


def run_with_degraded_last_epoch(folder, clinc_file, *callbacks, teacher=None, **settings):
    """Fit a student that learns the rows and then forgets them; returns trainer and module."""
    run = trainer(folder, callbacks=[*callbacks, FlipClassifierHead()], max_epochs=8, enable_checkpointing=True)
    student = tiny_bert(layers=1, seed=2, initializer_range=0.2).config.to_dict()
    fitted = module(teacher, **{"student": {"config": student}, **settings})
    run.fit(fitted, data(clinc_file))
    return run, fitted


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder for the tests of a file together, with the rows and a teacher in it."""
    folder = tmp_path_factory.mktemp("my runs")
    (folder / "data_oos_plus.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
    save_model(tiny_bert(layers=4, seed=1), folder / "teacher")
    return folder
