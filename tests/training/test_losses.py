"""Losses in whole runs."""

import json
import statistics
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from transformers import BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification

from lightning_kd import DistillationModule, MaskedLM, QuestionAnswering, Schedule, SequenceClassification
from lightning_kd.callbacks import StudentExport
from lightning_kd.data import TfIdfReplacement
from lightning_kd.losses import (
    AttentionScoreLoss,
    ConsistencyLoss,
    DecoupledKDLoss,
    DISTLoss,
    HardLabelLoss,
    HiddenStateCosineLoss,
    HiddenStateMSELoss,
    SelfAttentionRelationLoss,
    SoftTargetLoss,
)
from tests.helpers import (
    LABELS,
    assert_resumable,
    clinc_rows,
    data,
    mlm_data,
    module,
    save_model,
    squad_data,
    tiny_bert,
    trainer,
)

# ---- losses on logits

LOGIT_LOSSES = {
    "standardized": SoftTargetLoss(temperature=2.0, standardize=True),
    "top_k": SoftTargetLoss(temperature=2.0, top_k=2),
    "decoupled": DecoupledKDLoss(),
    "dist without classes": DISTLoss(temperature=2.0, intra_weight=0.0),
    "dist": DISTLoss(temperature=2.0),
}


class LossRecorder(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(trainer.callback_metrics["train/only"].item())


@pytest.fixture
def settings(clinc_file, squad_folder, corpus):
    return {
        SequenceClassification: (BertForSequenceClassification, LABELS, data(clinc_file, batch_size=16)),
        QuestionAnswering: (BertForQuestionAnswering, None, squad_data(squad_folder, batch_size=10)),
        MaskedLM: (BertForMaskedLM, None, mlm_data(corpus, batch_size=8)),
    }


@pytest.mark.parametrize("task", [SequenceClassification, QuestionAnswering, MaskedLM])
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_logit_loss_alone_decreases(tmp_path, settings, name, task):
    model_class, labels, datamodule = settings[task]
    if LOGIT_LOSSES[name].compares_examples and task.predicts_positions:
        pytest.skip("raises, see tests/losses/test_dist.py")
    confident = tiny_bert(labels, layers=1, seed=1, model_class=model_class, initializer_range=0.5)
    recorder = LossRecorder()
    fitted = module(save_model(confident, tmp_path / "teacher"), task=task(), losses={"only": LOGIT_LOSSES[name]})
    trainer(tmp_path, max_epochs=6, callbacks=[recorder]).fit(fitted, datamodule)
    steps = len(recorder.values) // 6
    assert statistics.mean(recorder.values[-steps:]) < 0.8 * statistics.mean(recorder.values[:steps])


# ---- losses on layers


def wide_bert():
    return tiny_bert(layers=2, seed=1, hidden_size=32, num_attention_heads=4)


def projecting_module():
    losses = {"states": HiddenStateMSELoss(), "relations": SelfAttentionRelationLoss(num_relation_heads=4)}
    return module(wide_bert(), losses={"hard": HardLabelLoss(), **losses}, lr_scheduler=None)


def test_projection_is_trained_and_saved_but_not_exported(tmp_path, clinc_file):
    projections = []
    for steps in (1, -1):
        fitted = projecting_module()
        run = trainer(tmp_path, callbacks=[StudentExport()], max_steps=steps)
        run.fit(fitted, data(clinc_file))
        projections.append(fitted.losses["states"].projection.weight)
    assert projections[0].shape == (32, 16)
    assert not torch.equal(*projections)
    assert any(projections[1] is p for group in run.optimizers[0].param_groups for p in group["params"])
    run.save_checkpoint(tmp_path / "x.ckpt")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(loaded.losses["states"].projection.weight, projections[1])
    exported = BertForSequenceClassification.from_pretrained(tmp_path / "student")
    assert exported.state_dict().keys() == fitted.student.state_dict().keys()


def test_resumed_run_ends_with_the_same_projection(tmp_path, clinc_file):
    assert_resumable(tmp_path, projecting_module, partial(data, clinc_file), [9], max_epochs=2)


def test_same_weights_give_a_loss_of_zero(tmp_path, clinc_file):
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher, student = (tiny_bert(layers=2, seed=1, **no_dropout) for _ in range(2))
    losses = {
        "cosine": HiddenStateCosineLoss(layer_map={0: 0, 1: 1, 2: 2}),
        "states": HiddenStateMSELoss(),
        "attention": AttentionScoreLoss(layer_map={1: 1, 2: 2}),
        "relations": SelfAttentionRelationLoss(num_relation_heads=4),
    }
    run = trainer(tmp_path, max_steps=1)
    run.fit(module(teacher, student=student, losses=losses), data(clinc_file))
    logged = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("train/")}
    assert logged.keys() == {"train/loss", *(f"train/{name}" for name in losses)}
    assert max(logged.values()) < 1e-6


@pytest.mark.parametrize(
    ("loss", "teacher", "message"),
    [
        (HiddenStateCosineLoss(), wide_bert, "HiddenStateCosineLoss: .*16.*32"),
        (HiddenStateMSELoss(layer_map={2: 0}), wide_bert, "layer 2 of the student"),
        (HiddenStateMSELoss(), lambda: [tiny_bert(seed=1), tiny_bert(seed=2)], r"losses\.states: .* ensemble of 2 "),
        (HiddenStateMSELoss(), partial(torch.nn.Linear, 1, 1), r"losses\.states: .*transformers"),
    ],
)
def test_invalid_layers_stop_before_the_first_step(tmp_path, clinc_file, loss, teacher, message):
    fitted = module(teacher(), losses={"hard": HardLabelLoss(), "states": loss})
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, num_sanity_val_steps=0).fit(fitted, data(clinc_file))
    assert fitted.global_step == 0


# ---- consistency training


@pytest.fixture
def partly_labeled_file(tmp_path):
    rows = clinc_rows()
    for key in ("train", "oos_train"):
        rows[key] = [[text, label if number % 3 == 0 else None] for number, (text, label) in enumerate(rows[key])]
    file = tmp_path / "partly_labeled.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def consistency_module(teacher, **settings):
    """Return a module whose weight of the consistency loss rises, and which uses labels little by little."""
    losses = {
        "hard": HardLabelLoss(),
        "same": ConsistencyLoss(confidence=0.0, temperature=0.8),
        "soft": SoftTargetLoss(0.1),
    }
    schedules = {"hard": {"tsa_threshold": Schedule(0.5, 1)}, "same": {"weight": Schedule(0.5, 2)}}
    return module(teacher, losses=losses, loss_schedules=schedules, **settings)


def augmented_data(file, **settings):
    return data(file, allow_unlabeled=True, augmentation=TfIdfReplacement(0.5), **settings)


def test_consistency_terms_sum_to_the_total(tmp_path, partly_labeled_file, teacher_folder):
    run = trainer(tmp_path, max_epochs=2)
    fitted = consistency_module(teacher_folder)
    run.fit(fitted, augmented_data(partly_labeled_file))
    logged = run.callback_metrics
    total = sum(fitted.losses[name].weight * logged[f"train/{name}"] for name in ("hard", "same", "soft"))
    assert float(logged["train/loss"]) == pytest.approx(float(total), rel=1e-5)
    assert logged["train/same"] > 0
    assert 1 < logged["train/same_weight"] < 2
    assert "val/hard" in logged
    assert "val/same" not in logged  # validation examples are not augmented


def test_resumed_consistency_run_ends_in_the_same_weights(tmp_path, partly_labeled_file, teacher_folder):
    make_module = partial(consistency_module, teacher_folder, teacher_cache=str(tmp_path / "cache"))
    assert_resumable(tmp_path, make_module, partial(augmented_data, partly_labeled_file), [11], max_epochs=2)


def test_augmentation_and_consistency_loss_need_each_other(tmp_path, clinc_file, partly_labeled_file):
    fitted = module(losses={"hard": HardLabelLoss(), "same": ConsistencyLoss()})
    with pytest.raises(ValueError, match=r"losses\.same: .*data\.augmentation"):
        trainer(tmp_path).fit(fitted, data(partly_labeled_file, allow_unlabeled=True))
    augmented = data(clinc_file, augmentation=TfIdfReplacement())
    with pytest.warns(UserWarning, match=r"data\.augmentation: "):
        trainer(tmp_path, max_steps=1).fit(module(), augmented)
    with pytest.raises(ValueError, match=r"losses\.same: .*data\.allow_unlabeled"):
        trainer(tmp_path).fit(fitted, augmented)
