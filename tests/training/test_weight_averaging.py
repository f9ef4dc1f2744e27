"""Lightning's EMAWeightAveraging on a DistillationModule."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from transformers import BertForSequenceClassification

from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.helpers import assert_resumable, assert_same_weights, data, module, save_model, tiny_bert, trainer

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


@pytest.fixture
def make_module(teacher):
    """Return a function that builds a module whose loss has a projection."""
    return lambda: module(
        teacher, losses={"hard": HardLabelLoss(), "soft": SoftTargetLoss(), "states": HiddenStateMSELoss()}
    )


def test_average_includes_the_projection_and_not_the_teacher(tmp_path, clinc_file, teacher, make_module):
    average, fitted = Average(), make_module()
    trainer(tmp_path, max_epochs=2, callbacks=[average]).fit(fitted, data(clinc_file))
    expected = average.steps[0]
    for step in average.steps[1:]:
        expected = {name: DECAY * mean + (1 - DECAY) * step[name] for name, mean in expected.items()}
    assert "losses.states.projection.weight" in expected
    for name, parameter in fitted.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], atol=1e-6, rtol=1e-5)
    assert_same_weights(fitted.teacher.load()[0], BertForSequenceClassification.from_pretrained(teacher))


def test_resumed_run_ends_in_the_same_average(tmp_path, clinc_file, make_module):
    make_data = partial(data, clinc_file)
    assert_resumable(tmp_path, make_module, make_data, [5], [14], max_epochs=2, make_callbacks=lambda: [Average()])


def test_averaging_position_ids_raises(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[EMAWeightAveraging(decay=0.9999)])
    with pytest.raises(ValueError, match=r"EMAWeightAveraging averages buffers .*position_ids.*use_buffers: false"):
        run.fit(module(), data(clinc_file))
