"""``lightning-kd report``."""

import json

from transformers import AutoTokenizer

from tests.helpers import (
    TINY_BERT,
    save_model,
    tiny_bert,
)


def test_missing_model(root, data_args, shell):
    code, _ = shell("report", "--models", root / "teacher", root / "studnet", *data_args)
    assert str(root / "studnet") in code


def test_models_with_different_tokenizers(root, data_args, shell, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    tokenizer.add_tokens(["lightning"])
    save_model(tiny_bert(), tmp_path / "other", tokenizer)
    code, _ = shell("report", "--models", root / "teacher", tmp_path / "other", *data_args)
    assert "models: tokenizer of" in code
    assert f"{str(tmp_path / 'other')!r}" in code


def test_model_of_unknown_task(root, data_args, shell, tmp_path):
    save_model(tiny_bert(), tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "plain" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    code, _ = shell("report", "--models", tmp_path / "plain", *data_args)
    assert "does not say what it is for (architectures: ['BertModel']); name it" in code
    code, last = shell(
        "report",
        "--models",
        tmp_path / "plain",
        *data_args,
        "--task",
        "SequenceClassification",
        "--output_dir",
        tmp_path / "r",
    )
    assert code == 0, last


def test_report_on_unknown_split(root, data_args, shell):
    code, _ = shell("report", "--models", root / "teacher", *data_args, "--split", "dev")
    assert code == 2


def test_models_of_equal_name_and_duplicates(root, data_args, shell, tmp_path):
    for run in ("a", "b"):
        save_model(tiny_bert(seed=1), tmp_path / run / "student")
    models = [tmp_path / "a" / "student", tmp_path / "b" / "student"]
    code, last = shell("report", "--models", *models, *data_args, "--output_dir", tmp_path / "r")
    assert code == 0, last
    lines = json.loads((tmp_path / "r" / "report.json").read_text())["rows"]
    assert [line["name"] for line in lines] == ["a/student", "b/student"]
    code, _ = shell("report", "--models", models[0], models[0], *data_args, "--output_dir", tmp_path / "r")
    assert "student' is named twice; leave it out once" in code


def test_home_directory_is_expanded(root, data_args, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    code, last = shell("report", "--models", "~/student", *data_args, "--output_dir", tmp_path / "r")
    assert code == 0, last


def test_report_into_a_file(root, data_args, shell, tmp_path):
    (tmp_path / "r").touch()
    code, _ = shell("report", "--models", root / "student", *data_args, "--output_dir", tmp_path / "r")
    assert "output_dir: " in code
