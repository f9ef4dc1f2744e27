"""The exported folder is the best student, loadable by transformers alone."""

import json
from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from lightning_kd import DistillationModule
from lightning_kd.callbacks import CompressionReport, LastCheckpoint, StudentExport
from lightning_kd.callbacks.export_base import Export
from tests.helpers import (
    LABELS,
    TINY_BERT,
    best_checkpoint,
    clinc_rows,
    data,
    module,
    run_with_degraded_last_epoch,
    save_model,
    tiny_bert,
    trainer,
)

TEXTS = [text for text, _ in clinc_rows()["val"]]


@pytest.fixture(scope="module")
def best_is_not_last(folder):
    callbacks = [StudentExport(), best_checkpoint()]
    return run_with_degraded_last_epoch(
        folder, folder / "data_oos_plus.json", *callbacks, teacher=str(folder / "teacher")
    )


def logits(model, folder=TINY_BERT):
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits


def load_export(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder / "student")


def test_weights_are_those_of_the_best_checkpoint(folder, best_is_not_last):
    run, fitted = best_is_not_last
    best = DistillationModule.load_from_checkpoint(run.checkpoint_callback.best_model_path)
    actual = logits(load_export(folder), folder / "student")
    assert torch.equal(actual, logits(best.student))
    assert not torch.allclose(actual, logits(fitted.student), atol=0.1)
    assert run.checkpoint_callback.best_model_score > 0.9
    assert fitted.validation_scores()["val/accuracy"] < 0.5


def test_export_does_not_change_the_module(folder, best_is_not_last):
    run, fitted = best_is_not_last
    run.save_checkpoint(folder / "after.ckpt")
    after = torch.load(folder / "after.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(after[f"student.{n}"], w) for n, w in fitted.student.state_dict().items())


def test_pipeline_returns_label_names(folder, best_is_not_last):
    answers = pipeline("text-classification", model=str(folder / "student"))(TEXTS)
    right = sum(answer["label"] == intent for answer, (_, intent) in zip(answers, clinc_rows()["val"], strict=True))
    assert right / len(TEXTS) > 0.9
    assert json.loads((folder / "student" / "config.json").read_text())["id2label"] == {
        str(index): name for index, name in enumerate(LABELS)
    }


def test_tokenizer_is_that_of_the_data(folder, best_is_not_last, tokenizer):
    own = AutoTokenizer.from_pretrained(folder / "student")
    assert own.get_vocab() == tokenizer.get_vocab()
    assert own("Hello Desk").input_ids == tokenizer("Hello Desk").input_ids
    state = json.loads((folder / "student" / "tokenizer.json").read_text(encoding="utf-8"))
    assert state["truncation"] is state["padding"] is None  # would depend on whether the examples were cached


@pytest.mark.parametrize(
    ("callbacks", "best"),
    [
        ([LastCheckpoint()], best_checkpoint()),
        ([ModelCheckpoint(every_n_epochs=3, save_top_k=-1)], best_checkpoint()),
        ([], best_checkpoint(monitor="val/hard", mode="min")),
    ],
    ids=["last", "periodic", "another metric"],
)
def test_best_is_that_of_the_callback_with_a_metric(tmp_path, clinc_file, callbacks, best):
    _, fitted = run_with_degraded_last_epoch(tmp_path, clinc_file, *callbacks, StudentExport(), best)
    kept = DistillationModule.load_from_checkpoint(best.best_model_path)
    assert torch.equal(logits(load_export(tmp_path)), logits(kept.student))
    assert not torch.equal(logits(load_export(tmp_path)), logits(fitted.student))


def test_student_given_as_a_module_gets_the_label_names(tmp_path, clinc_file):
    student = tiny_bert(labels=None, num_labels=3)
    trainer(tmp_path, callbacks=[StudentExport()]).fit(module(student=student), data(clinc_file))
    assert load_export(tmp_path).config.id2label == dict(enumerate(LABELS))


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.parametrize(
    ("callbacks", "settings"),
    [
        ([StudentExport()], {"precision": "bf16-true"}),
        ([StudentExport(), ModelCheckpoint(every_n_epochs=2)], {"max_epochs": 3, "enable_checkpointing": True}),
        ([StudentExport(), EMAWeightAveraging(use_buffers=False)], {"max_steps": 3}),
        ([EMAWeightAveraging(use_buffers=False), StudentExport()], {"max_steps": 3}),
    ],
    ids=["bfloat16", "without a monitored checkpoint", "averaged", "averaged first"],
)
def test_weights_are_those_at_the_end_without_a_best_checkpoint(tmp_path, clinc_file, callbacks, settings):
    fitted = module(lr_scheduler=None)
    trainer(tmp_path, callbacks=callbacks, **settings).fit(fitted, data(clinc_file))
    dtype = torch.bfloat16 if "precision" in settings else torch.float32
    assert load_export(tmp_path).dtype == fitted.student.dtype == dtype
    assert torch.equal(logits(load_export(tmp_path)), logits(fitted.student))


def test_plain_module_is_not_exported_with_a_warning(tmp_path, clinc_file):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.EmbeddingBag(1200, 3)

        def forward(self, input_ids):
            return self.layer(input_ids)

    with pytest.warns(UserWarning, match="export: the student is not a transformers model"):
        trainer(tmp_path, callbacks=[StudentExport()]).fit(module(student=Bag()), data(clinc_file))
    assert not (tmp_path / "student").exists()


class FailingExport(Export):
    dirname = config_key = description = "failing"

    def write_files(self, folder, student):
        raise RuntimeError("export failed")


def test_student_is_written_before_other_exports_whatever_the_order(tmp_path, clinc_file):
    callbacks = [FailingExport(), StudentExport()]
    with pytest.raises(RuntimeError, match="export failed"):
        trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(module(), data(clinc_file))
    assert (tmp_path / "student" / "model.safetensors").is_file()
    assert not (tmp_path / "failing").exists()


@pytest.mark.parametrize("student", ["with a head", "without a head", "from a config"])
def test_run_without_a_step_exports_only_a_student_with_weights(tmp_path, clinc_file, student_folder, student):
    trained = save_model(tiny_bert(seed=2), tmp_path / "trained")
    source = {"with a head": trained, "without a head": student_folder}.get(student, {"config": str(TINY_BERT)})
    is_loaded = student == "with a head"
    callbacks = [StudentExport(str(tmp_path / "exported")), CompressionReport()]
    run = trainer(tmp_path, max_epochs=0, callbacks=callbacks)
    skips = nullcontext() if is_loaded else pytest.warns(UserWarning, match=r"^export: nothing is exported")
    with pytest.warns(UserWarning, match=r"^trainer\.max_epochs: 0, so nothing is trained"), skips:
        run.fit(module(student=source), data(clinc_file))
    assert (tmp_path / "exported").exists() == is_loaded
