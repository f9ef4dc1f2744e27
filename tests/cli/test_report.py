"""``lightning-kd report``."""

import json

import pytest
from transformers import BertModel

from tests.helpers import save_model, tiny_bert


@pytest.fixture
def report(shell, data_args, tmp_path):
    """Report on models, into ``report`` in the test's folder."""

    def invoke(*models, options=()):
        return shell("report", "--models", *models, *data_args, "--output_dir", tmp_path / "report", *options)

    return invoke


def test_missing_model(root, report):
    assert str(root / "studnet") in report(root / "teacher", root / "studnet")[0]


def test_models_with_different_tokenizers(root, report, tokenizer, tmp_path):
    tokenizer.add_tokens(["lightning"])
    other = save_model(tiny_bert(), tmp_path / "other", tokenizer)
    assert f"models: tokenizer of {other!r}" in report(root / "teacher", other)[0]


def test_model_of_unknown_task(report, tmp_path):
    model = save_model(tiny_bert(), tmp_path / "plain")
    config_file = tmp_path / "plain" / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "architectures": ["BertModel"]}))
    assert "BertModel" in report(model)[0]
    code, last = report(model, options=["--task", "SequenceClassification"])
    assert code == 0, last


def test_model_without_a_head(root, report, tmp_path):
    body = save_model(tiny_bert(model_class=BertModel), tmp_path / "body")
    assert f"model {body!r}: the checkpoint has no trained head" in report(root / "teacher", body)[0]


def test_models_of_equal_name_and_duplicates(report, tmp_path):
    models = [save_model(tiny_bert(seed=1), tmp_path / run / "student") for run in ("a", "b")]
    code, last = report(*models)
    assert code == 0, last
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["a/student", "b/student"]
    code, _ = report(models[0], models[0])
    assert "models: " in code
    assert "a/student" in code


def test_home_directory_is_expanded(root, report, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    code, last = report("~/student")
    assert code == 0, last


def test_model_of_nan(root, report, nan_model, tmp_path):
    code, _ = report(root / "teacher", nan_model)
    assert "error: model returned NaN or infinite logits for the examples [5, 11, 17, 23, 29, 35]; use another" in code
    assert not (tmp_path / "report").exists()
