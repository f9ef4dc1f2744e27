"""The commands for finished models, as one types them."""

import json

import pytest
from transformers import AutoTokenizer

from tests.conftest import TINY_BERT, clinc_rows, save_network, tiny_bert


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, a student and rows, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("my models")
    (root / "data_oos_plus.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
    save_network(tiny_bert(layers=3, seed=1), root / "teacher")
    save_network(tiny_bert(layers=1, seed=2), root / "student")
    return root


def rows(root):
    return ["--data", "CLINC150DataModule", "--data.path", root / "data_oos_plus.json"]


def test_export_then_report(root, shell, tmp_path):
    code, last = shell("export", "--model", root / "student", "--to", "ONNXExport", "--to.folder", tmp_path / "x y", *rows(root))  # fmt: skip  # noqa: E501
    assert code == 0, last
    models = [root / "teacher", root / "student", tmp_path / "x y", tmp_path / "x y-int8"]
    code, last = shell("report", "--models", *models, *rows(root), "--folder", tmp_path / "report", "--split", "test")
    assert code == 0, last
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [line["name"] for line in content["lines"]] == ["teacher", "student", "x y", "x y-int8"]
    assert content["split"] == "test"
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.md", "report.json", "report.png"}


def test_second_export_of_a_model_without_a_card(root, shell, tmp_path):
    for _ in range(2):
        code, last = shell("export", "--model", root / "student", "--to", "StudentExport", "--to.folder", tmp_path / "x", *rows(root))  # fmt: skip  # noqa: E501
        assert code == 0, last


def test_export_onto_somebody_elses_folder(root, shell, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, _ = shell("export", "--model", root / "student", "--to", "ONNXExport", "--to.folder", tmp_path, *rows(root))
    assert "exists and is no earlier export; choose another folder" in code


def test_export_without_a_folder(root, shell):
    code, _ = shell("export", "--model", root / "student", "--to", "ONNXExport", *rows(root))
    assert "to.folder: none given; name the folder to write" in code


def test_model_that_is_not_there(root, shell):
    code, _ = shell("report", "--models", root / "teacher", root / "studnet", *rows(root))
    assert "studnet' is neither a folder here nor a model that the hub could give" in code


def test_models_with_different_tokenizers(root, shell, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    tokenizer.add_tokens(["lightning"])
    save_network(tiny_bert(), tmp_path / "other", tokenizer)
    code, _ = shell("report", "--models", root / "teacher", tmp_path / "other", *rows(root))
    assert "other' has another tokenizer than the data; put it into a report of its own" in code


def test_model_that_does_not_say_its_task(root, shell, tmp_path):
    save_network(tiny_bert(), tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "plain" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    code, _ = shell("report", "--models", tmp_path / "plain", *rows(root))
    assert "does not say what it is for (architectures: ['BertModel']); name it" in code
    code, last = shell(
        "report",
        "--models",
        tmp_path / "plain",
        *rows(root),
        "--task",
        "SequenceClassification",
        "--folder",
        tmp_path / "r",
    )
    assert code == 0, last


def test_split_that_does_not_exist(root, shell):
    code, _ = shell("report", "--models", root / "teacher", *rows(root), "--split", "dev")
    assert code == 2


@pytest.mark.parametrize("command", ["report", "export"])
def test_help(shell, capsys, command):
    assert shell(command, "--help")[0] == 0


@pytest.mark.parametrize("target", ["student", "student/onnx", "."])
def test_export_onto_the_model_itself(root, shell, target):
    before = {file: file.read_bytes() for file in (root / "student").iterdir()}
    code, _ = shell(
        "export", "--model", root / "student", "--to", "ONNXExport", "--to.folder", root / target, *rows(root)
    )
    assert "would overwrite or lie in" in code
    assert {file: file.read_bytes() for file in (root / "student").iterdir()} == before


def test_models_of_the_same_name_and_one_named_twice(root, shell, tmp_path):
    for run in ("a", "b"):
        save_network(tiny_bert(seed=1), tmp_path / run / "student")
    models = [tmp_path / "a" / "student", tmp_path / "b" / "student"]
    code, last = shell("report", "--models", *models, *rows(root), "--folder", tmp_path / "r")
    assert code == 0, last
    lines = json.loads((tmp_path / "r" / "report.json").read_text())["lines"]
    assert [line["name"] for line in lines] == ["a/student", "b/student"]
    code, _ = shell("report", "--models", models[0], models[0], *rows(root), "--folder", tmp_path / "r")
    assert "student' is named twice; leave it out once" in code


def test_rows_longer_than_the_positions(root, shell, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT, model_max_length=1000)
    model = save_network(tiny_bert(), tmp_path / "model", tokenizer)
    for command in (["report", "--models"], ["export", "--to", "ONNXExport", "--to.folder", tmp_path / "x", "--model"]):
        code, _ = shell(*command, model, *rows(root), "--data.max_length", 100)
        assert "data.max_length: 100 is more than the 64 positions" in code


def test_home(root, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    code, last = shell("report", "--models", "~/student", *rows(root), "--folder", tmp_path / "r")
    assert code == 0, last


def test_report_into_a_file(root, shell, tmp_path):
    (tmp_path / "r").touch()
    code, _ = shell("report", "--models", root / "student", *rows(root), "--folder", tmp_path / "r")
    assert "is a file; choose a folder for the report" in code


def test_card_of_somebody_else_is_kept_and_marked(root, shell, tmp_path):
    model = save_network(tiny_bert(), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\n## Compression report\n\nold")
    for _ in range(2):
        code, last = shell(
            "export", "--model", model, "--to", "StudentExport", "--to.folder", tmp_path / "x", *rows(root)
        )
        assert code == 0, last
    card = (tmp_path / "x" / "README.md").read_text()
    assert "license: mit" in card
    assert "# Mine" in card
    assert "lightning_kd" in card
    assert "old" not in card
