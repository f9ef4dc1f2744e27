"""Lightning's EMAWeightAveraging on a DistillationModule."""

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from transformers import BertForSequenceClassification

from lightning_kd.callbacks import LastCheckpoint, StudentExport
from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.helpers import data, module, save_model, tiny_bert, trainer

DECAY = 0.9
pytestmark = pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")


class KilledError(Exception):
    """Stands for SIGKILL."""


class Average(EMAWeightAveraging):
    """Keeps what it averaged, to be averaged again by hand; may be killed."""

    def __init__(self, kill_at=None):
        super().__init__(decay=DECAY, use_buffers=False)
        self.kill_at = kill_at
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.kill_at:
            raise KilledError

    def on_train_batch_end(self, trainer, pl_module, *args):
        super().on_train_batch_end(trainer, pl_module, *args)
        self.steps.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})


@pytest.fixture
def teacher(tmp_path):
    return save_model(tiny_bert(layers=2, seed=1, hidden_size=32), tmp_path / "teacher")


def fit(folder, teacher, average, clinc_file, checkpoint=None):
    losses = {"hard": HardLabelLoss(), "soft": SoftTargetLoss(), "states": HiddenStateMSELoss()}
    fitted = module(teacher, losses=losses)
    callbacks = [average, LastCheckpoint(0.0), StudentExport()]
    run = trainer(folder, max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    run.fit(fitted, data(clinc_file), ckpt_path=checkpoint)
    return fitted


def test_average_is_that_of_the_weights_projection_included(tmp_path, clinc_file, teacher):
    average = Average()
    fitted = fit(tmp_path, teacher, average, clinc_file)
    before = {name: p.clone() for name, p in fitted.teacher.load()[0].state_dict().items()}
    expected = average.steps[0]
    for step in average.steps[1:]:
        expected = {name: DECAY * mean + (1 - DECAY) * step[name] for name, mean in expected.items()}
    assert "losses.states.projection.weight" in expected
    for name, parameter in fitted.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], atol=1e-6, rtol=1e-5)
    fresh = BertForSequenceClassification.from_pretrained(teacher).state_dict()
    assert all(torch.equal(before[name], fresh[name]) for name in fresh)


def test_exported_student_is_the_average(tmp_path, clinc_file, teacher):
    fitted = fit(tmp_path, teacher, Average(), clinc_file)
    exported = BertForSequenceClassification.from_pretrained(tmp_path / "student").state_dict()
    assert all(torch.equal(exported[name], weight) for name, weight in fitted.student.state_dict().items())


@pytest.mark.parametrize("kill_at", [5, 14])
def test_resumed_run_ends_in_the_same_average(tmp_path, clinc_file, teacher, kill_at):
    whole = fit(tmp_path / "whole", teacher, Average(), clinc_file)
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", teacher, Average(kill_at), clinc_file)
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    resumed = fit(tmp_path / "killed", teacher, Average(), clinc_file, checkpoint)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_averaging_positions_is_refused(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[EMAWeightAveraging(decay=0.9999)])
    with pytest.raises(ValueError, match=r"EMAWeightAveraging averages buffers .*position_ids.*use_buffers: false"):
        run.fit(module(), data(clinc_file))
