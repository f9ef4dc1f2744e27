"""``lightning-kd probe``."""

import json

import pytest

from lightning_kd.cli import probe as probe_module
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


@pytest.fixture
def probe(shell, data_args, tmp_path):
    """Probe models into ``probe`` in the test's folder; return code and message."""

    def invoke(teacher, *options, student=None):
        pair = ["--teacher", teacher, *(["--student", student] if student else [])]
        return shell("probe", *pair, *data_args, "--output_dir", tmp_path / "probe", *options)

    return invoke


@pytest.fixture
def content(tmp_path):
    """Return what the last probe wrote."""
    return lambda: json.loads((tmp_path / "probe" / "probe.json").read_text())


def test_probe_of_sentences(root, probe, content, tmp_path, capsys):
    options = ["--sentences", "hello [water]", "1", "--temperatures", 1, 4, "--top_k", 2, "--bottom_k", 1]
    code, last = probe(root / "teacher", *options, student=root / "student")
    assert code == 0, last
    sentences = content()["sentences"]
    assert [sentence["text"] for sentence in sentences] == ["hello [water]", "1"]
    assert [model["model"] for model in sentences[0]["model_probabilities"]] == ["teacher", "student"]
    assert {file.name for file in (tmp_path / "probe").iterdir()} == {"probe.md", "probe.json", "probe.png"}
    shown = capsys.readouterr().out
    assert "teacher: hello [water]" in shown
    assert "Probe written to" in shown


def test_probe_of_confident_examples_and_permuted_labels(probe, content, tmp_path):
    """A teacher and the same model with reversed classes agree on all examples."""
    model = tiny_bert(layers=3, seed=1, initializer_range=0.5)
    permuted = tiny_bert(labels=LABELS[::-1], layers=3, seed=1, initializer_range=0.5)
    permuted.load_state_dict(model.state_dict())
    for name, weight in model.classifier.named_parameters():
        permuted.classifier.get_parameter(name).data = weight.data.flip(0)
    folders = [save_model(model, tmp_path / "original"), save_model(permuted, tmp_path / "reversed")]
    results = []
    for teacher, student in (folders, folders[::-1]):
        code, last = probe(teacher, "--split", "test", "--num_examples", 1, "--top_k", 3, student=student)
        assert code == 0, last
        results.append(content())
    first, second = results
    assert first["agreement"] == second["agreement"] == 1
    assert first["split_stats"][3]["kl_divergence"] == pytest.approx(0, abs=1e-9)
    for actual, expected in zip(second["split_stats"], first["split_stats"], strict=True):
        assert actual == pytest.approx(expected, abs=1e-6)
    assert first["accuracy"] == second["accuracy"]
    assert first["split_stats"][0]["off_target_mass"] != pytest.approx(2 / 3, abs=0.05)  # uniform over three classes
    assert len(first["sentences"]) == 2
    for key in ("classes", "label"):
        assert [sentence[key] for sentence in first["sentences"]] == [sentence[key] for sentence in second["sentences"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperatures", 1, 0], "temperatures: must be > 0, got 0.0"),
        (["--sentences", "good", " "], "sentences: "),
        (["--top_k", 0], "top_k: must be >= 1, got 0"),
        (["--output_dir", __file__], "output_dir: "),
        (["--num_examples", 11], "num_examples: must be <= 10, got 11"),
    ],
)
def test_invalid_arguments(root, probe, arguments, message):
    assert message in probe(root / "teacher", "--top_k", 3, *arguments)[0]


@pytest.mark.parametrize(("command", "models"), [("probe", "--teacher"), ("report", "--models")])
def test_arguments_are_checked_before_models_are_loaded(data_args, shell, command, models):
    arguments = [models, "no/where", "--task", "SequenceClassification", *data_args, "--data.tokenizer", TINY_BERT]
    code, _ = shell(command, *arguments, "--output_dir", f"{__file__}/x")
    assert "output_dir: " in code
    assert __file__ in code
    assert shell(command, *arguments, "--split", "dev")[0] == 2


def test_unsupported_datamodule(root, shell):
    boring = "lightning.pytorch.demos.boring_classes.BoringDataModule"
    code, _ = shell("probe", "--teacher", root / "teacher", "--data", boring)
    assert "probe: " in code
    assert "BoringDataModule" in code
    assert "--data" in code


def test_tables_are_printed_before_plotting(root, probe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(probe_module, "plot_probe", lambda result: 1 / 0)
    assert "ZeroDivisionError" in probe(root / "teacher", "--sentences", "hello :smile: [water]")[0]
    assert "teacher: hello :smile: [water]" in capsys.readouterr().out  # no emoji
    assert {file.name for file in (tmp_path / "probe").iterdir()} == {"probe.md", "probe.json"}


def test_incompatible_models(root, probe, tokenizer, tmp_path):
    tokenizer.add_tokens(["lightning"])
    other_labels = save_model(tiny_bert(labels=["greet", "leave", "stay"]), tmp_path / "labels")
    other_count = save_model(tiny_bert(labels=None, num_labels=4), tmp_path / "count")
    other_tokenizer = save_model(tiny_bert(), tmp_path / "tokenizer", tokenizer)
    for teacher, student, message in (
        (root / "teacher", other_labels, "teacher and student have different label sets"),
        (root / "teacher", other_count, "student: has 4 labels, expected 3"),
        (root / "teacher", other_tokenizer, "data.tokenizer"),
        (other_labels, None, "data and teacher have different label sets"),
    ):
        assert message in probe(teacher, "--top_k", 3, student=student)[0]
    assert not (tmp_path / "probe").exists()


def test_teacher_tokenizer(root, probe, content, tmp_path):
    """The teacher's results do not depend on the student's tokenizer."""
    other = roberta_tokenizer([text for text, _ in clinc_rows()["train"]], 290)
    student = save_roberta(tiny_roberta(LABELS, other), other, tmp_path / "roberta")
    options = ["--top_k", 3, "--sentences", "hello water"]
    pair = ["--data.tokenizer", student]
    assert "data.teacher_tokenizer" in probe(root / "teacher", *options, *pair, student=student)[0]
    pair += ["--data.teacher_tokenizer", root / "teacher"]
    results = []
    for more, other_student in ((pair, student), ([], None)):
        code, last = probe(root / "teacher", *options, *more, student=other_student)
        assert code == 0, last
        results.append(content())
    both, alone = results
    assert both["split_stats"][0]["off_target_mass"] == pytest.approx(alone["split_stats"][0]["off_target_mass"])
    both, alone = (result["sentences"][0]["model_probabilities"][0]["second_probabilities"] for result in results)
    assert both == pytest.approx(alone)


def test_teacher_of_nan(probe, nan_model, tmp_path):
    code, _ = probe(nan_model)
    assert (
        "error: teacher returned NaN or infinite logits for the examples [5, 11, 17, 23, 29, 35]; use another" in code
    )
    assert not (tmp_path / "probe").exists()
