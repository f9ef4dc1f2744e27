"""Files of an earlier version load: a checkpoint, a teacher cache, the key of tokenized data, and a config."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_kd import DistillationModule, SST2DataModule, TextClassificationDataModule
from lightning_kd.data import MaskedLMDataModule, SQuADDataModule, TextDataModule
from lightning_kd.data.encoding_cache import encoder_state
from lightning_kd.teachers.cache_store import RowStore
from lightning_kd.teachers.logit_codec import LogitCodec
from lightning_kd.teachers.teacher import Teacher
from tests.compatibility.write import STORED, data, module, trainer, versions


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:ckpt_path. has no record of teacher")
def test_checkpoint_loads_and_resumes():
    loaded = DistillationModule.load_from_checkpoint("last.ckpt")
    assert loaded.hparams["losses"]["soft"]["class_path"] == "lightning_kd.losses.SoftTargetLoss"
    assert loaded.label_names == ["greet", "leave", "oos"]
    resumed = module()
    fit = trainer(max_epochs=2)
    fit.fit(resumed, data(), ckpt_path="last.ckpt")
    assert fit.global_step == 4
    before = torch.load("last.ckpt", weights_only=True)["state_dict"]
    assert before.keys() == resumed.state_dict().keys()


def test_teacher_cache_is_read(monkeypatch):
    if (stored := json.loads(Path("versions.json").read_text())) != versions():
        pytest.skip(f"the key follows from the versions {stored}")

    def run(*_):
        raise AssertionError("the teacher runs")

    monkeypatch.setattr(Teacher, "__call__", run)
    trainer(max_epochs=1).fit(module(), data())


def test_rows_of_a_teacher_cache_are_read():
    for folder in Path("teacher_cache").iterdir():
        (blocks, count, classes), *rest = RowStore(folder, np.ones(3)).read(np.arange(3))
        assert not rest
        assert LogitCodec().decode(blocks, 1, count, classes).shape == (3, 1, 1, 3)
        assert json.loads((folder / "metadata.json").read_text())["task"] == "lightning_kd.SequenceClassification"


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (TextClassificationDataModule, ["TextClassificationDataModule", "TextDataModule"]),
        (SST2DataModule, ["SST2DataModule", "TextClassificationDataModule", "TextDataModule"]),
        (SQuADDataModule, ["SQuADDataModule", "TextDataModule"]),
        (MaskedLMDataModule, ["MaskedLMDataModule", "TextDataModule"]),
    ],
)
def test_key_of_tokenized_data(cls, names):
    assert encoder_state(cls, TextDataModule) == [[name, 1, None] for name in names]


def test_config(shell):
    """The keys and class names of a config written by a run stay valid."""
    data()
    code, message = shell("fit", "--config", "config.yaml", "--trainer.fast_dev_run=true")
    assert code == 0, message
