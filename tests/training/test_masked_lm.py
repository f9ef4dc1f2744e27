"""Whole runs of masked language modeling."""

from functools import partial

import numpy as np
import pytest
from transformers import AutoModelForMaskedLM, BertForMaskedLM, pipeline

from lightning_kd import LayerInitialization, MaskedLM
from lightning_kd.callbacks import StudentExport
from lightning_kd.losses import HardLabelLoss, HiddenStateCosineLoss, SoftTargetLoss
from tests.helpers import (
    WORDS,
    assert_resumable,
    assert_same_scores_when_reloaded,
    assert_same_weights,
    mlm_data,
    module,
    save_model,
    tiny_bert,
    trainer,
)


@pytest.fixture
def teacher(tmp_path):
    return save_model(tiny_bert(None, layers=3, seed=1, model_class=BertForMaskedLM), tmp_path / "teacher")


def mlm_module(teacher, **settings):
    losses = {
        "soft": SoftTargetLoss(5.0, 2.0),
        "hard": HardLabelLoss(2.0),
        "cosine": HiddenStateCosineLoss(1.0),
    }
    student = {"config": teacher, "num_hidden_layers": 1}
    return module(teacher, task=MaskedLM(), **{"losses": losses, "student": student, **settings})


def test_distilled_and_exported(tmp_path, corpus, teacher):
    fitted = mlm_module(teacher)
    run = trainer(tmp_path, max_epochs=6, callbacks=[LayerInitialization(), StudentExport()])
    run.fit(fitted, mlm_data(corpus))
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    assert {"train/soft", "train/hard", "train/cosine", "val/perplexity", "val/hard"} <= metrics.keys()
    assert metrics["val/perplexity"] < 40  # of 1,200 tokens, 12 of which occur
    assert metrics["val/perplexity"] == pytest.approx(np.exp(metrics["val/hard"]), rel=0.05)
    assert fitted.teacher_scores["perplexity"] > 500
    exported = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    assert_same_weights(exported, fitted.student)
    answers = pipeline("fill-mask", str(tmp_path / "student"))("hello [MASK] good morning")
    assert answers[0]["token_str"] in WORDS


def test_untrained_teacher_raises(tmp_path, corpus, teacher):
    with pytest.raises(ValueError, match=r"validation perplexity 1\d+\.\d+, not better than chance \(\d+\.\d+\)"):
        trainer(tmp_path).fit(mlm_module(teacher, ignore_checks=[]), mlm_data(corpus))


def test_vocabulary_sizes_must_match(tmp_path, corpus, teacher):
    student = {"config": teacher, "num_hidden_layers": 1, "vocab_size": 1208}  # padded, as published ones often are
    with pytest.raises(ValueError, match=r"student\.vocab_size: .* 1208 .* 1200; build .* vocab_size: 1200"):
        trainer(tmp_path).fit(mlm_module(teacher, student=student), mlm_data(corpus))


def test_reloaded_from_its_checkpoint(tmp_path, corpus, teacher):
    assert_same_scores_when_reloaded(mlm_module(teacher), lambda: mlm_data(corpus), tmp_path)


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}, {"streaming": True, "shuffle_buffer": 7}], ids=str)
def test_resumed_run_ends_in_the_same_weights(tmp_path, corpus, teacher, settings):
    # the masks of an epoch are drawn again for the remaining examples
    make_module, make_data = partial(mlm_module, teacher), partial(mlm_data, corpus, **settings)
    assert_resumable(tmp_path, make_module, make_data, [5], [12], [17], max_steps=24, max_epochs=-1)


def test_stream_needs_max_steps_or_no_schedule(tmp_path, corpus, teacher):
    schedules = {"hard": {"weight": {"start": 0, "end": 1}}}
    for field, settings in (
        ("lr_scheduler", {}),
        ("loss_schedules", {"lr_scheduler": None, "loss_schedules": schedules}),
    ):
        with pytest.raises(ValueError, match=rf"^{field}: .*needs the number of steps, .* set trainer\.max_steps"):
            trainer(tmp_path, max_epochs=1).fit(mlm_module(teacher, **settings), mlm_data(corpus, streaming=True))
    fitted = mlm_module(teacher, lr_scheduler=None)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(fitted, mlm_data(corpus, streaming=True))
    assert run.global_step == 12
