"""ONNX export at the end of a run."""

import json

import pytest
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering

from lightning_kd import DistillationModule, ONNXExport, QuestionAnswering
from lightning_kd.callbacks import StudentExport, export_base, onnx_export
from lightning_kd.evaluation.parity import Parity
from lightning_kd.export.onnx import ONNXModel
from tests.helpers import (
    LABELS,
    best_checkpoint,
    data,
    module,
    run_with_degraded_last_epoch,
    squad_data,
    tiny_bert,
    trainer,
)

FILES = {"README.md", "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def run(folder):
    callbacks = [ONNXExport(), StudentExport(), best_checkpoint()]
    return run_with_degraded_last_epoch(folder, folder / "data_oos_plus.json", *callbacks)


def logits(model, folder, texts):
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_folders_are_complete(folder, run):
    for name in ("onnx", "onnx-int8"):
        assert {file.name for file in (folder / name).iterdir()} == FILES
        config = json.loads((folder / name / "config.json").read_text())
        assert list(config["id2label"].values()) == LABELS
        assert config["architectures"] == ["BertForSequenceClassification"]
    assert not list(folder.glob(".*"))


def test_graph_is_the_best_student(folder, run):
    trainer, fitted = run
    best = DistillationModule.load_from_checkpoint(trainer.checkpoint_callback.best_model_path).student.eval()
    texts = ["hello water", "what is the leak of france my dear"]
    exported = ONNXModel(folder / "onnx")
    torch.testing.assert_close(logits(exported, folder / "onnx", texts), logits(best, folder / "onnx", texts))
    assert not torch.allclose(
        logits(fitted.student.eval(), folder / "onnx", texts), logits(best, folder / "onnx", texts)
    )


def test_int8_outputs_are_close(folder, run):
    texts = ["hello water", "what is the leak of france my dear", "goodbye desk see you later then"]
    exact, rounded = (logits(ONNXModel(folder / name), folder / name, texts) for name in ("onnx", "onnx-int8"))
    assert torch.equal(exact.argmax(-1), rounded.argmax(-1))
    assert not torch.equal(exact, rounded)


def test_card_has_the_difference_to_the_student(folder, run):
    for name, precision in (("onnx", "float32"), ("onnx-int8", "int8")):
        card = (folder / name / "README.md").read_text()
        assert f"## ONNX, {precision}" in card
        assert "0 of 36 predictions changed" in card
        assert ("at batch size 1: largest difference" in card) == (precision == "int8")
        assert ("depend slightly on its other examples" in card) == (precision == "int8")
        assert "ORTModelForSequenceClassification.from_pretrained" in card


def test_question_answering(tmp_path, squad_folder):
    student = tiny_bert(labels=["start", "end"], model_class=BertForQuestionAnswering)
    run = trainer(tmp_path, callbacks=[ONNXExport(int8=False, num_check_examples=4)], max_steps=1)
    run.fit(module(student=student, task=QuestionAnswering()), squad_data(squad_folder))
    assert ONNXModel(tmp_path / "onnx").output_names == ["start_logits", "end_logits"]
    assert not (tmp_path / "onnx-int8").exists()


def test_unsupported_operator_raises_before_training(tmp_path, clinc_file, monkeypatch):
    def refuse(model, batch):
        raise ValueError("no counterpart")

    monkeypatch.setattr(onnx_export.onnx, "to_onnx", refuse)
    run = trainer(tmp_path, callbacks=[ONNXExport()])
    with pytest.raises(ValueError, match="no counterpart"):
        run.fit(module(), data(clinc_file))
    assert run.global_step == 0


def test_foreign_int8_folder_raises(tmp_path, clinc_file):
    (tmp_path / "mine-int8").mkdir()
    (tmp_path / "mine-int8" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"ONNXExport\.output_dir: '.*mine-int8' exists and is not an earlier export"):
        trainer(tmp_path, callbacks=[ONNXExport(str(tmp_path / "mine"))]).fit(module(), data(clinc_file))


def test_graph_that_differs_is_not_exported(tmp_path, clinc_file, monkeypatch):
    monkeypatch.setattr(export_base, "measure_parity", lambda *args: Parity(10, 0.5, 3))
    with pytest.raises(ValueError, match=r"differs from the student \(largest difference of a logit 0\.5, 3 of 10"):
        trainer(tmp_path, callbacks=[ONNXExport()], max_steps=1).fit(module(), data(clinc_file))
    assert not list(tmp_path.glob("*onnx*"))
