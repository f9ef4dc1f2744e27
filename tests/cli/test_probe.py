"""``lightning-kd probe``."""

import json

import pytest
from transformers import AutoTokenizer

from lightning_kd.cli import probe
from tests.helpers import (
    LABELS,
    TINY_BERT,
    clinc_rows,
    roberta_tokenizer,
    save_model,
    save_roberta,
    tiny_bert,
    tiny_roberta,
)


def test_probe(root, data_args, shell, tmp_path, capsys):
    pair = ["--teacher", root / "teacher", "--student", root / "student"]
    sentences = ["--sentences", "hello [water]", "1", "--temperatures", 1, 4, "--top_k", 2, "--bottom_k", 1]
    code, last = shell("probe", *pair, *sentences, *data_args, "--output_dir", tmp_path / "my probe")
    assert code == 0, last
    content = json.loads((tmp_path / "my probe" / "probe.json").read_text())
    assert [sentence["text"] for sentence in content["sentences"]] == ["hello [water]", "1"]
    assert [view["model"] for view in content["sentences"][0]["model_probabilities"]] == ["teacher", "student"]
    assert {file.name for file in (tmp_path / "my probe").iterdir()} == {"probe.md", "probe.json", "probe.png"}
    shown = capsys.readouterr().out
    assert "teacher: hello [water]" in shown
    assert "Probe written to" in shown


def test_probe_of_confident_examples_and_permuted_labels(root, data_args, shell, tmp_path):
    """A teacher and itself with its classes turned around agree in all rows."""
    model = tiny_bert(layers=3, seed=1, initializer_range=0.5)
    permuted = tiny_bert(labels=LABELS[::-1], layers=3, seed=1, initializer_range=0.5)
    permuted.load_state_dict(model.state_dict())
    for name, weight in model.classifier.named_parameters():
        permuted.classifier.get_parameter(name).data = weight.data.flip(0)
    folders = [save_model(model, tmp_path / "own"), save_model(permuted, tmp_path / "turned")]
    results = []
    for teacher, student in (folders, folders[::-1]):
        pair = ["--teacher", teacher, "--student", student, "--split", "test", "--num_examples", 1, "--top_k", 3]
        code, last = shell("probe", *pair, *data_args, "--output_dir", tmp_path / "p")
        assert code == 0, last
        results.append(json.loads((tmp_path / "p" / "probe.json").read_text()))
    own, other = results
    assert own["agreement"] == other["agreement"] == 1
    assert own["split_stats"][3]["kl_divergence"] == pytest.approx(0, abs=1e-9)
    for actual, expected in zip(other["split_stats"], own["split_stats"], strict=True):
        assert actual == pytest.approx(expected, abs=1e-6)
    assert own["accuracy"] == other["accuracy"]
    assert own["split_stats"][0]["off_target_mass"] != pytest.approx(2 / 3, abs=0.05)  # as of one that does not care
    assert len(own["sentences"]) == 2
    assert [s["classes"] for s in own["sentences"]] == [s["classes"] for s in other["sentences"]]
    assert [s["label"] for s in own["sentences"]] == [s["label"] for s in other["sentences"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperatures", 1, 0], "TemperatureProbe.temperatures: each must be > 0, got 0.0"),
        (["--sentences", "good", " "], "TemperatureProbe.sentences: number 2 has no text"),
        (["--top_k", 0], "TemperatureProbe.top_k: must be >= 1, got 0"),
        (["--output_dir", __file__], "output_dir: "),
        (["--num_examples", 11], "TemperatureProbe.num_examples: must be <= 10, got 11"),
    ],
)
def test_probe_with_invalid_arguments(root, data_args, shell, arguments, message):
    code, _ = shell("probe", "--teacher", root / "teacher", "--top_k", 3, *data_args, *arguments)
    assert message in code


@pytest.mark.parametrize("command", ["probe", "report"])
def test_output_dir_is_checked_before_models_are_loaded(root, data_args, shell, command):
    models = ["--teacher", "no/where"] if command == "probe" else ["--models", "no/where"]
    arguments = [*models, "--task", "SequenceClassification", *data_args, "--data.tokenizer", TINY_BERT]
    code, _ = shell(command, *arguments, "--output_dir", f"{__file__}/x")
    assert "is no folder; choose another place" in code


def test_unsupported_datamodule(root, shell):
    code, _ = shell(
        "probe", "--teacher", root / "teacher", "--data", "lightning.pytorch.demos.boring_classes.BoringDataModule"
    )
    assert "probe: " in code
    assert "BoringDataModule" in code
    assert "--data" in code
    assert "leave it out" not in code


def test_probe_prints_tables_before_plotting(root, data_args, shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(probe, "plot_probe", lambda result: 1 / 0)
    sentences = ["--sentences", "hello :smile: [water]"]
    code, _ = shell("probe", "--teacher", root / "teacher", *data_args, *sentences, "--output_dir", tmp_path / "p")
    assert "ZeroDivisionError" in code
    assert "teacher: hello :smile: [water]" in capsys.readouterr().out  # no emoji
    assert {file.name for file in (tmp_path / "p").iterdir()} == {"probe.md", "probe.json"}


def test_probe_of_unknown_split(root, data_args, shell):
    assert shell("probe", "--teacher", root / "teacher", *data_args, "--split", "dev")[0] == 2


def test_probe_of_incompatible_models(root, data_args, shell, tmp_path):
    def refusal(name):
        pair = ["--teacher", root / "teacher", "--student", tmp_path / name]
        return shell("probe", *pair, *data_args, "--top_k", 3, "--output_dir", tmp_path / "p")[0]

    save_model(tiny_bert(labels=["greet", "leave", "stay"]), tmp_path / "labels")
    assert "teacher and student have different label sets" in refusal("labels")
    save_model(tiny_bert(labels=None, num_labels=4), tmp_path / "count")
    assert "student: has 4 labels, expected 3" in refusal("count")
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    tokenizer.add_tokens(["lightning"])
    save_model(tiny_bert(), tmp_path / "tokenizer", tokenizer)
    assert "tokenizer' has another tokenizer than the data; name the student's with data.tokenizer" in refusal(
        "tokenizer"
    )
    save_model(tiny_bert(labels=["greet", "leave", "stay"]), tmp_path / "other data")
    code, _ = shell("probe", "--teacher", tmp_path / "other data", *data_args, "--top_k", 3)
    assert "data and teacher have different label sets" in code
    assert not (tmp_path / "p").exists()


def test_probe_with_a_teacher_tokenizer(root, data_args, shell, tmp_path):
    """It says the same beside a student of another tokenizer as alone."""
    other = roberta_tokenizer([text for text, _ in clinc_rows()["train"]], 290)
    student = save_roberta(tiny_roberta(LABELS, other), other, tmp_path / "roberta")
    pair = [*data_args, "--teacher", root / "teacher", "--student", student, "--data.tokenizer", student]
    shown = ["--top_k", 3, "--sentences", "hello water", "--output_dir"]
    code, _ = shell("probe", *pair, *shown, tmp_path / "both")
    assert "have different tokenizers" in code
    assert "data.teacher_tokenizer=" in code
    code, last = shell("probe", *pair, "--data.teacher_tokenizer", root / "teacher", *shown, tmp_path / "both")
    assert code == 0, last
    code, last = shell("probe", "--teacher", root / "teacher", *data_args, *shown, tmp_path / "alone")
    assert code == 0, last
    both, alone = (json.loads((tmp_path / name / "probe.json").read_text()) for name in ("both", "alone"))
    assert both["split_stats"][0]["off_target_mass"] == pytest.approx(alone["split_stats"][0]["off_target_mass"])
    views = [content["sentences"][0]["model_probabilities"][0] for content in (both, alone)]
    assert views[0]["second_probabilities"] == pytest.approx(views[1]["second_probabilities"])
