"""Neuron export at the end of a run."""

import json

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertForQuestionAnswering

from lightning_kd import DistillationModule, MaskedLM, NeuronTrace, QuestionAnswering
from lightning_kd.callbacks import CompressionReport, StudentExport, export_base
from lightning_kd.evaluation.parity import Parity
from lightning_kd.export.artifacts import open_artifact
from lightning_kd.export.tracing import TracedModel
from lightning_kd.tasks import SequenceClassification
from tests.helpers import (
    LABELS,
    best_checkpoint,
    data,
    mlm_data,
    module,
    run_with_degraded_last_epoch,
    save_model,
    squad_data,
    tiny_bert,
    trainer,
)
from tests.neuron_sdk import FakeNeuronSDK

FILES = {"README.md", "config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def run(folder):
    callbacks = [NeuronTrace(target="cpu", batch_size=4), StudentExport(), CompressionReport(), best_checkpoint()]
    return run_with_degraded_last_epoch(folder, folder / "data_oos_plus.json", *callbacks)


def test_folder_is_complete(folder, run):
    assert {file.name for file in (folder / "neuron").iterdir()} == {*FILES, "model.pt"}
    config = json.loads((folder / "neuron" / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS
    assert config["neuron"]["static_sequence_length"] == 32  # the data's max_length
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert not hasattr(run[1].student.config, "neuron")


def test_graph_is_the_best_student(folder, run):
    best = DistillationModule.load_from_checkpoint(run[0].checkpoint_callback.best_model_path).student.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "neuron")
    texts = ["hello water", "what is the leak of france my dear", "goodbye", "see you", "later then"]
    inputs = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(TracedModel(folder / "neuron")(**inputs).logits, best(**inputs).logits)


def test_card(folder, run):
    card = (folder / "neuron" / "README.md").read_text()
    assert "## Traced for cpu" in card
    assert "4 examples of 32 tokens; inputs input_ids, attention_mask, token_type_ids, in this order" in card
    assert "0 of 36 predictions changed" in card


def test_report_has_a_row_for_it(folder, run):
    lines = json.loads((folder / "report.json").read_text())["rows"]
    assert [(line["name"], line["runtime"]) for line in lines] == [("student", "PyTorch"), ("neuron", "TorchScript")]
    assert lines[1]["agreement"] == 1
    assert lines[0]["num_parameters"] == lines[1]["num_parameters"]


def test_inf2_without_a_device(tmp_path, clinc_file, monkeypatch):
    sdk = FakeNeuronSDK(monkeypatch)
    traced = NeuronTrace(target="inf2", auto_cast="matmult", compiler_args=["--model-type", "transformer"])
    run = trainer(tmp_path, callbacks=[traced, StudentExport(), CompressionReport()], max_steps=1)
    run.fit(module(), data(clinc_file))
    assert {file.name for file in (tmp_path / "neuron").iterdir()} == {*FILES, "model.neuron"}
    flags = {"--target": "inf2", "--auto-cast": "matmult", "--auto-cast-type": "bf16", "--model-type": "transformer"}
    assert sdk.calls == [{"flags": flags, "cpu_backend": True}]
    section = json.loads((tmp_path / "neuron" / "config.json").read_text())["neuron"]
    assert (section["auto_cast"], section["auto_cast_type"]) == ("matmul", "bf16")
    card = (tmp_path / "neuron" / "README.md").read_text()
    assert "100.00% of the operators are supported" in card
    assert "Not compared with the student" in card
    assert "NeuronModelForSequenceClassification.from_pretrained" in card
    names = [line["name"] for line in json.loads((tmp_path / "report.json").read_text())["rows"]]
    assert names == ["student"]  # this machine cannot run the graph


def test_inf1_with_pipeline_cores(tmp_path, clinc_file, monkeypatch):
    sdk = FakeNeuronSDK(monkeypatch, unsupported=["aten::tanh"])
    traced = NeuronTrace(target="inf1", pipeline_cores=4)
    trainer(tmp_path, callbacks=[traced], max_steps=1).fit(module(), data(clinc_file))
    assert sdk.calls == [{"flags": {"--fast-math": "none", "--neuroncore-pipeline-cores": "4"}}]
    assert "not supported: aten::tanh" in (tmp_path / "neuron" / "README.md").read_text()


def test_question_answering(tmp_path, squad_folder):
    student = tiny_bert(labels=["start", "end"], model_class=BertForQuestionAnswering)
    run = trainer(tmp_path, callbacks=[NeuronTrace(target="cpu", batch_size=2, num_check_examples=4)], max_steps=1)
    run.fit(module(student=student, task=QuestionAnswering()), squad_data(squad_folder))
    assert TracedModel(tmp_path / "neuron").output_names == ["start_logits", "end_logits"]


def test_masked_lm(tmp_path, corpus):
    student = tiny_bert(labels=None, model_class=BertForMaskedLM)
    run = trainer(tmp_path, callbacks=[NeuronTrace(target="cpu", num_check_examples=4)], max_steps=1)
    run.fit(module(student=student, task=MaskedLM()), mlm_data(corpus))
    assert "0 of" in (tmp_path / "neuron" / "README.md").read_text()


def test_export_command(tmp_path, clinc_file, shell):
    model, traced = save_model(tiny_bert(), tmp_path / "student"), tmp_path / "traced"
    options = ["--data", "CLINC150DataModule", "--data.path", clinc_file, "--data.max_length", 24, "--batch_size", 2]
    code, last = shell("export", "neuron", "--model", model, "--output_dir", traced, "--target", "cpu", *options)
    assert code == 0, last
    artifact = open_artifact(str(traced), SequenceClassification())
    assert artifact.runtime == "TorchScript"
    assert artifact.model.shape == (2, 24)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_length": 65}, r"NeuronTrace\.sequence_length: 65 exceeds the 64 positions"),
        ({"sequence_length": 16}, r"NeuronTrace\.sequence_length: 16 is less than the data's max_length 32"),
        ({"target": "inf2"}, "AWS Neuron SDK is not installed"),
    ],
)
def test_invalid_shape_or_target_raises_before_training(tmp_path, clinc_file, settings, message):
    run = trainer(tmp_path, callbacks=[NeuronTrace(**{"target": "cpu", **settings})])
    with pytest.raises(ValueError, match=message):
        run.fit(module(), data(clinc_file))
    assert run.global_step == 0


def test_unsupported_operator_raises_before_training(tmp_path, clinc_file, monkeypatch):
    sdk = FakeNeuronSDK(monkeypatch, unsupported=["aten::gelu"])
    run = trainer(tmp_path, callbacks=[NeuronTrace()])
    with pytest.raises(ValueError, match="not supported: aten::gelu"):
        run.fit(module(), data(clinc_file))
    assert run.global_step == 0
    assert not sdk.calls


@pytest.mark.parametrize("difference", [0.5, float("inf")])
def test_graph_that_differs_is_not_exported(tmp_path, clinc_file, monkeypatch, difference):
    monkeypatch.setattr(export_base, "measure_parity", lambda *args: Parity(10, difference, 3))
    with pytest.raises(ValueError, match=r"NeuronTrace: the graph differs from the student \(largest difference"):
        trainer(tmp_path, callbacks=[NeuronTrace(target="cpu")], max_steps=1).fit(module(), data(clinc_file))
    assert not (tmp_path / "neuron").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"NeuronTrace\.batch_size: must be >= 1, got 0"),
        ({"sequence_length": 1}, r"NeuronTrace\.sequence_length: must be >= 2, got 1"),
        ({"num_check_examples": 0}, r"NeuronTrace\.num_check_examples: must be >= 1, got 0"),
        ({"pipeline_cores": 2}, r"NeuronTrace\.pipeline_cores: only inf1 .* not inf2"),
        ({"target": "tpu"}, r"NeuronTrace\.target: must be one of cpu, inf1, inf2, trn1, got 'tpu'"),
    ],
)
def test_invalid_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        NeuronTrace(**settings)
