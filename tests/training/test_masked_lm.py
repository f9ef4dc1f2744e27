"""Whole runs of masked language modeling."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertForMaskedLM, pipeline

from lightning_kd import LayerInitialization, MaskedLM
from lightning_kd.callbacks import StudentExport
from lightning_kd.losses import HardLabelLoss, HiddenStateCosineLoss, SoftTargetLoss
from tests.helpers import (
    WORDS,
    assert_same_scores_when_reloaded,
    assert_same_weights,
    mlm_data,
    module,
    resume_after_kills,
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
    assert all(torch.equal(w, exported.state_dict()[n]) for n, w in fitted.student.state_dict().items())
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


@pytest.mark.parametrize(("streaming", "workers"), [(False, 0), (False, 2), (True, 0)])
@pytest.mark.parametrize("kill_at", [5, 12, 17])
def test_resumed_run_ends_in_the_same_weights(tmp_path, corpus, teacher, streaming, workers, kill_at):
    # the masks of an epoch are drawn again for the remaining examples
    def fit(folder, callbacks, checkpoint):
        fitted = mlm_module(teacher)
        datamodule = mlm_data(corpus, streaming=streaming, num_workers=workers, shuffle_buffer=7)
        run = trainer(folder, max_steps=24, max_epochs=-1, callbacks=callbacks, enable_checkpointing=True)
        run.fit(fitted, datamodule, ckpt_path=checkpoint)
        return fitted

    whole = resume_after_kills(fit, tmp_path / "whole")
    assert_same_weights(whole, resume_after_kills(fit, tmp_path / "killed", [kill_at]))


def test_stream_needs_max_steps_or_no_lr_schedule(tmp_path, corpus, teacher):
    with pytest.raises(ValueError, match=r"needs the number of steps, .* set trainer\.max_steps"):
        trainer(tmp_path, max_epochs=1).fit(mlm_module(teacher), mlm_data(corpus, streaming=True))
    fitted = mlm_module(teacher, lr_scheduler=None)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(fitted, mlm_data(corpus, streaming=True))
    assert run.global_step == 12
