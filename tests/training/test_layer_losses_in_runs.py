"""Losses that compare layers, in whole runs."""

import pytest
import torch
from transformers import BertForSequenceClassification

from lightning_kd import DistillationModule
from lightning_kd.callbacks import StudentExport
from lightning_kd.losses import (
    AttentionScoreLoss,
    HardLabelLoss,
    HiddenStateCosineLoss,
    HiddenStateMSELoss,
    SelfAttentionRelationLoss,
)
from tests.helpers import data, module, save_model, tiny_bert, trainer

WIDE_CONFIG = {"hidden_size": 32, "num_attention_heads": 4}


def losses(**more):
    return {"hard": HardLabelLoss(), **more}


def test_projection_trains_is_saved_and_is_not_exported(tmp_path, clinc_file):
    teacher = tiny_bert(layers=2, seed=1, **WIDE_CONFIG)
    fitted = module(
        teacher, losses=losses(states=HiddenStateMSELoss(), relations=SelfAttentionRelationLoss(num_relation_heads=4))
    )
    run = trainer(tmp_path, callbacks=[StudentExport()], max_steps=1)
    run.fit(fitted, data(clinc_file))
    first = fitted.losses["states"].projection.weight.detach().clone()
    assert first.shape == (32, 16)
    fitted = module(
        teacher, losses=losses(states=HiddenStateMSELoss(), relations=SelfAttentionRelationLoss(num_relation_heads=4))
    )
    run = trainer(tmp_path, callbacks=[StudentExport()])
    run.fit(fitted, data(clinc_file))
    weight = fitted.losses["states"].projection.weight
    assert not torch.equal(weight, first)
    assert any(weight is p for group in run.optimizers[0].param_groups for p in group["params"])
    run.save_checkpoint(tmp_path / "x.ckpt")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(loaded.losses["states"].projection.weight, weight)
    exported = BertForSequenceClassification.from_pretrained(tmp_path / "student")
    assert exported.state_dict().keys() == fitted.student.state_dict().keys()


def test_resumed_run_ends_in_the_same_projection(tmp_path, clinc_file):
    teacher = save_model(tiny_bert(layers=2, seed=1, **WIDE_CONFIG), tmp_path / "teacher")

    def fit(epochs, checkpoint=None):
        fitted = module(teacher, losses=losses(states=HiddenStateMSELoss()), lr_scheduler=None)
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(fitted, data(clinc_file), ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / "x.ckpt")
        return fitted.state_dict()

    whole = fit(2)
    fit(1)
    resumed = fit(2, tmp_path / "x.ckpt")
    assert "losses.states.projection.weight" in whole
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_same_weights_and_layers_give_zero(tmp_path, clinc_file):
    # teacher and student are one network without dropout: nothing to learn from any layer
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher, student = (tiny_bert(layers=2, seed=1, **still) for _ in range(2))
    layers = {"cosine": HiddenStateCosineLoss(layer_map={0: 0, 1: 1, 2: 2}), "states": HiddenStateMSELoss()}
    attention = {
        "attention": AttentionScoreLoss(layer_map={1: 1, 2: 2}),
        "relations": SelfAttentionRelationLoss(num_relation_heads=4),
    }
    fitted = module(teacher, student=student, losses={**layers, **attention})
    run = trainer(tmp_path, max_steps=1)
    run.fit(fitted, data(clinc_file))
    logged = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("train/")}
    assert set(logged) == {"train/loss", "train/cosine", "train/states", "train/attention", "train/relations"}
    assert max(logged.values()) < 1e-6


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (HiddenStateCosineLoss(), "the student is 16 wide and the teacher 32"),
        (HiddenStateMSELoss(layer_map={2: 0}), "names layer 2 of the student, which has 0 to 1"),
    ],
)
def test_refused_before_the_first_step(tmp_path, clinc_file, loss, message):
    fitted = module(tiny_bert(layers=2, seed=1, **WIDE_CONFIG), losses=losses(states=loss))
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, num_sanity_val_steps=0).fit(fitted, data(clinc_file))
    assert fitted.global_step == 0


def test_ensembles_have_no_layers(tmp_path, clinc_file):
    fitted = module([tiny_bert(seed=1), tiny_bert(seed=2)], losses=losses(states=HiddenStateMSELoss()))
    with pytest.raises(ValueError, match=r"losses\.states: compares layers, .* ensemble of 2 "):
        trainer(tmp_path).fit(fitted, data(clinc_file))


class Plain(torch.nn.Module):
    """A network without a transformers configuration."""

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.EmbeddingBag(1200, 3)

    def forward(self, input_ids):
        return self.embeddings(input_ids)


def test_networks_that_do_not_say_their_sizes(tmp_path, clinc_file):
    fitted = module(Plain(), losses=losses(states=HiddenStateMSELoss()))
    with pytest.raises(ValueError, match=r"losses\.states: compares layers, .*transformers"):
        trainer(tmp_path).fit(fitted, data(clinc_file))
