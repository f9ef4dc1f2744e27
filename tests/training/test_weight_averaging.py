"""Lightning's EMAWeightAveraging on a DistillationModule."""

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from transformers import BertForSequenceClassification

from lightning_kd.callbacks import StudentExport
from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.helpers import assert_same_weights, data, module, resume_after_kills, save_model, tiny_bert, trainer

DECAY = 0.9
pytestmark = pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")


class Average(EMAWeightAveraging):
    """Records the weights of each step."""

    def __init__(self):
        super().__init__(decay=DECAY, use_buffers=False)
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        super().on_train_batch_end(trainer, pl_module, *args)
        self.steps.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})


@pytest.fixture
def teacher(tmp_path):
    return save_model(tiny_bert(layers=2, seed=1, hidden_size=32), tmp_path / "teacher")


def fit(folder, teacher, average, clinc_file, more_callbacks=(), checkpoint=None):
    losses = {"hard": HardLabelLoss(), "soft": SoftTargetLoss(), "states": HiddenStateMSELoss()}
    fitted = module(teacher, losses=losses)
    callbacks = [average, *more_callbacks, StudentExport()]
    run = trainer(folder, max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    run.fit(fitted, data(clinc_file), ckpt_path=checkpoint)
    return fitted


def test_average_includes_the_projection_and_not_the_teacher(tmp_path, clinc_file, teacher):
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
    def run(folder, callbacks, checkpoint):
        return fit(folder, teacher, Average(), clinc_file, callbacks, checkpoint)

    whole = resume_after_kills(run, tmp_path / "whole")
    assert_same_weights(whole, resume_after_kills(run, tmp_path / "killed", [kill_at]))


def test_averaging_position_ids_raises(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[EMAWeightAveraging(decay=0.9999)])
    with pytest.raises(ValueError, match=r"EMAWeightAveraging averages buffers .*position_ids.*use_buffers: false"):
        run.fit(module(), data(clinc_file))
