"""``lightning-kd export``."""

import json

import numpy as np
import onnx
import pytest
from huggingface_hub import ModelCard
from transformers import BertModel

from lightning_kd.callbacks import onnx_export
from tests.helpers import save_model, tiny_bert

STUDENT_EXPORT = "lightning_kd.StudentExport"


@pytest.fixture
def export(shell, data_args):
    def invoke(export_format, model, output_dir, *args):
        return shell("export", export_format, "--model", model, "--output_dir", output_dir, *data_args, *args)

    return invoke


def test_export_then_report(root, data_args, export, shell, tmp_path):
    code, last = export("onnx", root / "student", tmp_path / "x y")
    assert code == 0, last
    models = [root / "teacher", root / "student", tmp_path / "x y", tmp_path / "x y-int8"]
    output = ["--output_dir", tmp_path / "report", "--split", "test"]
    code, last = shell("report", "--models", *models, *data_args, *output)
    assert code == 0, last
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["teacher", "student", "x y", "x y-int8"]
    assert content["split"] == "test"
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.md", "report.json", "report.png"}


def test_model_without_a_head(export, tmp_path):
    body = save_model(tiny_bert(model_class=BertModel), tmp_path / "body")
    code, _ = export("onnx", body, tmp_path / "x", "--task", "SequenceClassification")
    assert f"model {body!r}: the checkpoint has no trained head" in code


def test_options_of_a_format(root, export, tmp_path):
    code, last = export("onnx", root / "student", tmp_path / "x", "--int8", "false", "--num_check_examples", 3)
    assert code == 0, last
    assert not (tmp_path / "x-int8").exists()
    assert "ONNXExport.num_check_examples" in export("onnx", root / "student", tmp_path, "--num_check_examples", 0)[0]
    assert export("onnx", root / "student", tmp_path / "x", "--int9", "false")[0] == 2


@pytest.mark.parametrize(
    ("format_args", "expected"),
    [
        ([], ["onnx, neuron"]),
        (["onnx"], ["--model", "--data", "--int8"]),
        (["neuron"], ["--model", "--data", "--target", "--auto_cast"]),
        ([STUDENT_EXPORT], ["--model", "--data", "--output_dir"]),
    ],
)
def test_help(shell, format_args, expected):
    code, shown = shell("export", *format_args, "--help")
    assert code == 0
    assert all(option in shown for option in expected)


@pytest.mark.parametrize(
    ("export_format", "problem"),
    [
        ("onx", "'onx'; did you mean 'onnx'"),
        ("tflite", "'tflite'; choose from onnx, neuron"),
        ("no_such.Export", "cannot import 'no_such.Export'"),
        ("lightning_kd.LastCheckpoint", "'lightning_kd.LastCheckpoint' is not a"),
    ],
)
def test_unknown_format(root, export, tmp_path, export_format, problem):
    code, _ = export(export_format, root / "student", tmp_path)
    assert "format:" in code
    assert problem in code


def test_missing_arguments(root, data_args, shell):
    assert shell("export")[0] == 2
    code, last = shell("export", "onnx", "--model", root / "student", *data_args)
    assert code == 2
    assert "output_dir" in last


def test_export_onto_an_unrelated_folder(root, export, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, _ = export("onnx", root / "student", tmp_path)
    assert "output_dir" in code
    assert str(tmp_path) in code
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("target", ["student", "student/onnx", "."])
def test_export_onto_the_model_itself(root, export, target):
    before = {file: file.read_bytes() for file in (root / "student").iterdir()}
    code, _ = export("onnx", root / "student", root / target)
    assert "overlaps with" in code
    assert {file: file.read_bytes() for file in (root / "student").iterdir()} == before


def test_max_length_above_position_embeddings(export, data_args, shell, tokenizer, tmp_path):
    tokenizer.model_max_length = 1000
    model = save_model(tiny_bert(), tmp_path / "model", tokenizer)
    too_long = ["--data.max_length", 100]
    for code, _ in (
        export("onnx", model, tmp_path / "x", *too_long),
        shell("report", "--models", model, *data_args, *too_long),
    ):
        assert "data.max_length: 100 tokens" in code


@pytest.mark.parametrize("card", [None, "---\nlicense: mit\n---\n# Mine\n\n## Compression report\n\nold"])
def test_second_export_keeps_and_extends_the_card(export, tmp_path, card):
    model = save_model(tiny_bert(), tmp_path / "model")
    if card:
        (tmp_path / "model" / "README.md").write_text(card)
    for _ in range(2):
        code, last = export(STUDENT_EXPORT, model, tmp_path / "x")
        assert code == 0, last
    written = ModelCard.load(tmp_path / "x" / "README.md")
    assert written.data.to_dict() == {"tags": ["lightning_kd"], **({"license": "mit"} if card else {})}
    assert written.text.strip() == ("# Mine" if card else f"# {model}")


def write_graph_of_nan(source, target):
    model = onnx.load(source)
    weight = next(weight for weight in model.graph.initializer if weight.name.endswith("classifier.weight"))
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, np.nan, "f4"), weight.name))
    onnx.save(model, target)


@pytest.mark.parametrize("fails", ["student", "int8 graph"])
def test_graphs_are_written_together_or_not_at_all(root, export, nan_model, tmp_path, monkeypatch, fails):
    if fails == "int8 graph":
        monkeypatch.setattr(onnx_export.onnx, "quantize", write_graph_of_nan)
    code, _ = export("onnx", nan_model if fails == "student" else root / "student", tmp_path / "exported")
    assert f"error: the {fails} returned NaN or infinite logits for the examples [" in code
    assert not list(tmp_path.glob("*exported*"))
