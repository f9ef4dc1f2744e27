"""The commands for finished models, as one types them."""

import json

import pytest
from transformers import AutoTokenizer

from lightning_kd.cli import commands
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, a student and rows, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("my models")
    (root / "data_oos_plus.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
    save_model(tiny_bert(layers=3, seed=1), root / "teacher")
    save_model(tiny_bert(layers=1, seed=2), root / "student")
    return root


def data_args(root):
    return ["--data", "CLINC150DataModule", "--data.path", root / "data_oos_plus.json"]


def test_export_then_report(root, shell, tmp_path):
    code, last = shell("export", "--model", root / "student", "--to", "ONNXExport", "--to.output_dir", tmp_path / "x y", *data_args(root))  # fmt: skip  # noqa: E501
    assert code == 0, last
    models = [root / "teacher", root / "student", tmp_path / "x y", tmp_path / "x y-int8"]
    code, last = shell(
        "report", "--models", *models, *data_args(root), "--output_dir", tmp_path / "report", "--split", "test"
    )
    assert code == 0, last
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [line["name"] for line in content["rows"]] == ["teacher", "student", "x y", "x y-int8"]
    assert content["split"] == "test"
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.md", "report.json", "report.png"}


def test_second_export_of_a_model_without_a_card(root, shell, tmp_path):
    for _ in range(2):
        code, last = shell("export", "--model", root / "student", "--to", "StudentExport", "--to.output_dir", tmp_path / "x", *data_args(root))  # fmt: skip  # noqa: E501
        assert code == 0, last


def test_export_onto_an_unrelated_folder(root, shell, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, _ = shell(
        "export", "--model", root / "student", "--to", "ONNXExport", "--to.output_dir", tmp_path, *data_args(root)
    )
    assert "exists and is not an earlier export" in code


def test_export_without_output_dir(root, shell):
    code, _ = shell("export", "--model", root / "student", "--to", "ONNXExport", *data_args(root))
    assert "to.output_dir: none given; name the folder to write" in code


def test_missing_model(root, shell):
    code, _ = shell("report", "--models", root / "teacher", root / "studnet", *data_args(root))
    assert "studnet' is neither a local folder nor available" in code


def test_models_with_different_tokenizers(root, shell, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    tokenizer.add_tokens(["lightning"])
    save_model(tiny_bert(), tmp_path / "other", tokenizer)
    code, _ = shell("report", "--models", root / "teacher", tmp_path / "other", *data_args(root))
    assert "other' has another tokenizer than the data; put it into a report of its own" in code


def test_model_of_unknown_task(root, shell, tmp_path):
    save_model(tiny_bert(), tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "plain" / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    code, _ = shell("report", "--models", tmp_path / "plain", *data_args(root))
    assert "does not say what it is for (architectures: ['BertModel']); name it" in code
    code, last = shell(
        "report",
        "--models",
        tmp_path / "plain",
        *data_args(root),
        "--task",
        "SequenceClassification",
        "--output_dir",
        tmp_path / "r",
    )
    assert code == 0, last


def test_report_on_unknown_split(root, shell):
    code, _ = shell("report", "--models", root / "teacher", *data_args(root), "--split", "dev")
    assert code == 2


@pytest.mark.parametrize("command", ["report", "probe", "export"])
def test_help(shell, capsys, command):
    assert shell(command, "--help")[0] == 0


@pytest.mark.parametrize("target", ["student", "student/onnx", "."])
def test_export_onto_the_model_itself(root, shell, target):
    before = {file: file.read_bytes() for file in (root / "student").iterdir()}
    code, _ = shell(
        "export", "--model", root / "student", "--to", "ONNXExport", "--to.output_dir", root / target, *data_args(root)
    )
    assert "overlaps with" in code
    assert {file: file.read_bytes() for file in (root / "student").iterdir()} == before


def test_models_of_equal_name_and_duplicates(root, shell, tmp_path):
    for run in ("a", "b"):
        save_model(tiny_bert(seed=1), tmp_path / run / "student")
    models = [tmp_path / "a" / "student", tmp_path / "b" / "student"]
    code, last = shell("report", "--models", *models, *data_args(root), "--output_dir", tmp_path / "r")
    assert code == 0, last
    lines = json.loads((tmp_path / "r" / "report.json").read_text())["rows"]
    assert [line["name"] for line in lines] == ["a/student", "b/student"]
    code, _ = shell("report", "--models", models[0], models[0], *data_args(root), "--output_dir", tmp_path / "r")
    assert "student' is named twice; leave it out once" in code


def test_max_length_above_position_embeddings(root, shell, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT, model_max_length=1000)
    model = save_model(tiny_bert(), tmp_path / "model", tokenizer)
    for command in (
        ["report", "--models"],
        ["export", "--to", "ONNXExport", "--to.output_dir", tmp_path / "x", "--model"],
    ):
        code, _ = shell(*command, model, *data_args(root), "--data.max_length", 100)
        assert "data.max_length: 100 is more than the 64 positions" in code


def test_home_directory_is_expanded(root, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    code, last = shell("report", "--models", "~/student", *data_args(root), "--output_dir", tmp_path / "r")
    assert code == 0, last


def test_report_into_a_file(root, shell, tmp_path):
    (tmp_path / "r").touch()
    code, _ = shell("report", "--models", root / "student", *data_args(root), "--output_dir", tmp_path / "r")
    assert "output_dir: " in code


def test_existing_card_is_kept_and_extended(root, shell, tmp_path):
    model = save_model(tiny_bert(), tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\n## Compression report\n\nold")
    for _ in range(2):
        code, last = shell(
            "export", "--model", model, "--to", "StudentExport", "--to.output_dir", tmp_path / "x", *data_args(root)
        )
        assert code == 0, last
    card = (tmp_path / "x" / "README.md").read_text()
    assert "license: mit" in card
    assert "# Mine" in card
    assert "lightning_kd" in card
    assert "old" not in card


def test_probe(root, shell, tmp_path, capsys):
    pair = ["--teacher", root / "teacher", "--student", root / "student"]
    sentences = ["--sentences", "hello [water]", "1", "--temperatures", 1, 4, "--top_k", 2, "--bottom_k", 1]
    code, last = shell("probe", *pair, *sentences, *data_args(root), "--output_dir", tmp_path / "my probe")
    assert code == 0, last
    content = json.loads((tmp_path / "my probe" / "probe.json").read_text())
    assert [sentence["text"] for sentence in content["sentences"]] == ["hello [water]", "1"]
    assert [view["model"] for view in content["sentences"][0]["model_probabilities"]] == ["teacher", "student"]
    assert {file.name for file in (tmp_path / "my probe").iterdir()} == {"probe.md", "probe.json", "probe.png"}
    shown = capsys.readouterr().out
    assert "teacher: hello [water]" in shown
    assert "Probe written to" in shown


def test_probe_of_confident_examples_and_permuted_labels(root, shell, tmp_path):
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
        code, last = shell("probe", *pair, *data_args(root), "--output_dir", tmp_path / "p")
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
def test_probe_with_invalid_arguments(root, shell, arguments, message):
    code, _ = shell("probe", "--teacher", root / "teacher", "--top_k", 3, *data_args(root), *arguments)
    assert message in code


@pytest.mark.parametrize("command", ["probe", "report"])
def test_output_dir_is_checked_before_models_are_loaded(root, shell, command):
    models = ["--teacher", "no/where"] if command == "probe" else ["--models", "no/where"]
    arguments = [*models, "--task", "SequenceClassification", *data_args(root), "--data.tokenizer", TINY_BERT]
    code, _ = shell(command, *arguments, "--output_dir", f"{__file__}/x")
    assert "is no folder; choose another place" in code


def test_unsupported_datamodule(root, shell):
    code, _ = shell(
        "probe", "--teacher", root / "teacher", "--data", "lightning.pytorch.demos.boring_classes.BoringDataModule"
    )
    assert "this one is a BoringDataModule; name one with --data" in code
    assert "leave it out" not in code


def test_probe_prints_tables_before_plotting(root, shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "plot_probe", lambda probe: 1 / 0)
    sentences = ["--sentences", "hello :smile: [water]"]
    code, _ = shell(
        "probe", "--teacher", root / "teacher", *data_args(root), *sentences, "--output_dir", tmp_path / "p"
    )
    assert "ZeroDivisionError" in code
    assert "teacher: hello :smile: [water]" in capsys.readouterr().out  # no emoji
    assert {file.name for file in (tmp_path / "p").iterdir()} == {"probe.md", "probe.json"}


def test_probe_of_unknown_split(root, shell):
    assert shell("probe", "--teacher", root / "teacher", *data_args(root), "--split", "dev")[0] == 2


def test_probe_of_incompatible_models(root, shell, tmp_path):
    def refusal(name):
        pair = ["--teacher", root / "teacher", "--student", tmp_path / name]
        return shell("probe", *pair, *data_args(root), "--top_k", 3, "--output_dir", tmp_path / "p")[0]

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
    code, _ = shell("probe", "--teacher", tmp_path / "other data", *data_args(root), "--top_k", 3)
    assert "data and teacher have different label sets" in code
    assert not (tmp_path / "p").exists()


def test_probe_with_a_teacher_tokenizer(root, shell, tmp_path):
    """It says the same beside a student of another tokenizer as alone."""
    other = roberta_tokenizer([text for text, _ in clinc_rows()["train"]], 290)
    student = save_roberta(tiny_roberta(LABELS, other), other, tmp_path / "roberta")
    pair = [*data_args(root), "--teacher", root / "teacher", "--student", student, "--data.tokenizer", student]
    shown = ["--top_k", 3, "--sentences", "hello water", "--output_dir"]
    code, _ = shell("probe", *pair, *shown, tmp_path / "both")
    assert "have different tokenizers" in code
    assert "data.teacher_tokenizer=" in code
    code, last = shell("probe", *pair, "--data.teacher_tokenizer", root / "teacher", *shown, tmp_path / "both")
    assert code == 0, last
    code, last = shell("probe", "--teacher", root / "teacher", *data_args(root), *shown, tmp_path / "alone")
    assert code == 0, last
    both, alone = (json.loads((tmp_path / name / "probe.json").read_text()) for name in ("both", "alone"))
    assert both["split_stats"][0]["off_target_mass"] == pytest.approx(alone["split_stats"][0]["off_target_mass"])
    views = [content["sentences"][0]["model_probabilities"][0] for content in (both, alone)]
    assert views[0]["second_probabilities"] == pytest.approx(views[1]["second_probabilities"])
