"""Results of a probe on constructed logits."""

import json
from io import BytesIO, StringIO

import pytest
import torch
from datasets import Dataset
from rich.console import Console

from lightning_kd.evaluation.temperature.logits import ModelLogits
from lightning_kd.evaluation.temperature.plot import plot_probe
from lightning_kd.evaluation.temperature.probe import build_probe_result
from lightning_kd.evaluation.temperature.selection import Selection

NAMES = ["a|b", "$5 or $6", "third", "fourth", "fifth"]
TEACHER = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0], [0.1, 0.0, 0.3, 0.2, 0.15], [0.0, 9.0, 2.0, 1.0, 3.0]])
STUDENT = TEACHER.flip(dims=[0])
LABELS = torch.tensor([0, 2, 4])
RAW = Dataset.from_dict({"text": ["row [0]", "row [1]", "row [2]"], "label": LABELS.tolist()})


def make_selection(**settings):
    defaults = {"sentences": None, "num_examples": 1, "temperatures": [1.0, 2.0], "top_k": 2, "bottom_k": 1}
    return Selection(**{**defaults, **settings})


def make_result(labels=LABELS, num_models=2, names=NAMES, **settings):
    """Probe constructed logits of the split; ``sentences`` have those of its first examples."""
    selection = make_selection(**settings)
    num_sentences, num_classes = len(selection.sentences or []), len(names)
    models = list(zip(("teacher", "student"), (TEACHER, STUDENT), strict=True))[:num_models]
    model_logits = [ModelLogits(name, z[:, :num_classes], z[:num_sentences, :num_classes]) for name, z in models]
    return build_probe_result(selection, ["t", "s"][:num_models], names, "validation", RAW, labels, model_logits)


def test_most_confident_examples_come_before_the_least():
    assert make_selection().select_by_confidence(TEACHER) == [2, 1]
    assert make_selection(num_examples=2).select_by_confidence(TEACHER) == [2, 0, 1]
    assert make_selection(num_examples=9).select_by_confidence(TEACHER) == [2, 0, 1]


def test_most_and_least_likely_classes_of_the_teacher():
    certain, uncertain = make_result().sentences
    assert certain.classes == ["$5 or $6", "fifth", "a|b"]
    assert certain.ranks == [1, 2, 5]
    assert certain.label == "fifth"
    assert uncertain.classes == ["third", "fourth", "$5 or $6"]
    teacher, student = uncertain.model_probabilities
    p = (TEACHER[1].double() / 2).softmax(dim=-1)
    assert teacher.probabilities[1] == pytest.approx(p[[2, 3, 1]].tolist())
    assert teacher.second_probabilities[1] == pytest.approx(float(p[3]))
    assert teacher.last_probabilities[1] == pytest.approx(float(p[1]))
    assert (teacher.second_class, teacher.last_class) == ("fourth", "$5 or $6")
    assert teacher.relative_difference[1] == pytest.approx(100 * float((p[3] - p[1]) / p[3]))
    assert student.second_probabilities[0] == pytest.approx(float(STUDENT[1].double().softmax(-1).sort().values[-2]))
    student = certain.model_probabilities[1]
    assert (student.second_class, student.last_class) == ("$5 or $6", "fifth")
    p = STUDENT[2].double().softmax(dim=-1)
    assert student.probabilities[0] == pytest.approx(p[[1, 4, 0]].tolist())


def test_split_stats():
    probe = make_result()
    assert probe.accuracy == pytest.approx({"teacher": 2 / 3, "student": 1 / 3})
    assert probe.agreement == pytest.approx(1 / 3)
    stats = [(stats.model, stats.temperature, stats.kl_divergence is None) for stats in probe.split_stats]
    assert stats == [("teacher", 1, True), ("teacher", 2, True), ("student", 1, False), ("student", 2, False)]


def test_unlabeled_examples_are_skipped():
    some, only = make_result(labels=torch.tensor([0, -100, 4])), TEACHER[[0, 2]].double().softmax(dim=-1)
    assert some.split_stats[0].off_target_mass == pytest.approx(float(1 - (only[0, 0] + only[1, 4]) / 2))
    assert some.accuracy["teacher"] == 0.5
    none = make_result(labels=torch.full((3,), -100))
    assert none.split_stats[0].off_target_mass is none.split_stats[0].calibration_error is None
    assert none.accuracy == none.best_temperature == {}
    assert none.sentences[0].label is None
    assert "accuracy" not in none.markdown()


def test_markdown_and_json():
    probe = make_result()
    lines = probe.markdown().splitlines()
    probe_columns = [f"{name}, T = {temperature}" for name in ("teacher", "student") for temperature in (1, 2)]
    cells = [line.replace(r"\|", "").count("|") for line in lines if line.startswith("|")]
    assert cells == [7] * 6 + [7] * 8 + [7] * 8  # of each table as many in each line
    assert r"| a\|b | 5 |" in probe.markdown()
    assert "(2nd - last) / 2nd, %" in probe.markdown()
    assert lines.count("| class | teacher's rank | " + " | ".join(probe_columns) + " |") == 2
    assert r"| 2nd class, teacher: fifth, student: $5 or $6 |  |" in probe.markdown()
    assert "| 2nd class, fifth |  |" in make_result(num_models=1).markdown()
    assert json.loads(probe.json())["split_stats"][0]["model"] == "teacher"


def test_rich_tables():
    console = Console(width=80, file=StringIO())
    for table in make_result().tables():
        console.print(table)
    text = console.file.getvalue()
    assert "row [2]" in text  # no markup
    assert "…" not in text


def test_two_classes():
    probe = make_result(labels=LABELS % 2, num_models=1, names=NAMES[:2], sentences=["one"], top_k=1)
    assert "2nd" not in probe.markdown()
    assert "-0" not in probe.json()


def test_glyphs_missing_from_the_font():
    names = ["\u8bed", *NAMES[1:]]
    probe = make_result(num_models=1, names=names, sentences=["\u8fd9 is \u597d", "\u00e9t\u00e9"])
    with pytest.warns(UserWarning, match="3 characters .*, such as \u597d \u8bed \u8fd9;") as record:
        figure = plot_probe(probe)
    figure.savefig(BytesIO())  # without the warnings of matplotlib
    assert len(record) == 1
    assert figure.axes[0].texts[-1].get_text() == "\ufffd is \ufffd"
    assert figure.axes[2].texts[-1].get_text() == "\u00e9t\u00e9"
    assert "\ufffd" in [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "\u8fd9 is \u597d" in probe.markdown()


@pytest.mark.parametrize("num_models", [1, 2])
@pytest.mark.parametrize("top_k", [2, 5])
def test_plot(tmp_path, num_models, top_k):
    probe = make_result(num_models=num_models, top_k=top_k)
    figure = plot_probe(probe)
    assert len(figure.axes) == 4
    first = figure.axes[0]
    widths = [bar.get_width() for bar in first.patches]
    shown = probe.sentences[0].model_probabilities
    assert widths == pytest.approx([p for entry in shown for p in entry.probabilities[0]])
    names = [tick.get_text() for tick in first.get_yticklabels()]
    assert names == (["$5 or $6", "fifth", "... 2 more ...", "a|b"] if top_k == 2 else probe.sentences[0].classes)
    assert figure.axes[0].get_xlim() == figure.axes[2].get_xlim()  # the same temperature
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*["teacher", "student"][:num_models], "1/5, uniform"]
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentences": "one"}, r"sentences: must be a list of texts, got 'one'"),
        ({"sentences": []}, r"sentences: must be a list of texts, got \[\]"),
        ({"sentences": ["one", " "]}, r"sentences: number 2 has no text, got ' '"),
        ({"sentences": ["hello", 5]}, "sentences: number 2 has no text, got 5"),
        ({"temperatures": []}, r"temperatures: is empty"),
        ({"temperatures": [1, 0]}, r"temperatures: must be > 0, got 0"),
        ({"temperatures": [float("nan")]}, r"temperatures: must be > 0, got nan"),
        ({"temperatures": [float("inf")]}, r"temperatures: must be > 0, got inf"),
        ({"num_examples": 0}, r"num_examples: must be >= 1, got 0"),
        ({"num_examples": 11}, r"num_examples: must be <= 10, got 11"),
        ({"sentences": ["one"] * 21}, r"sentences: at most 20, got 21"),
        ({"top_k": 0}, r"top_k: must be >= 1, got 0"),
        ({"bottom_k": -1}, r"bottom_k: must be >= 1, got -1"),
    ],
)
def test_invalid_arguments(settings, message):
    with pytest.raises(ValueError, match=r"TemperatureProbe\." + message):
        make_selection(**settings)


@pytest.mark.parametrize(
    ("top_k", "bottom_k", "num_classes", "ranks"),
    [(2, 1, 5, [0, 1, 4]), (4, 3, 5, [0, 1, 2, 3, 4]), (6, 6, 5, [0, 1, 2, 3, 4]), (5, 3, 2, [0, 1])],
)
def test_top_and_bottom_classes_are_shown_once(top_k, bottom_k, num_classes, ranks):
    assert make_selection(top_k=top_k, bottom_k=bottom_k).ranks(num_classes) == ranks


def test_single_class_raises():
    with pytest.raises(ValueError, match="requires at least 2 classes, got 1"):
        make_selection().check_num_classes(1)


def test_long_text_is_truncated_and_newlines_are_joined():
    sentences, names = ["x" * 500, "two\n\nlines"], ["y" * 99, *NAMES[1:]]
    probe = make_result(num_models=1, names=names, sentences=sentences, top_k=5, bottom_k=5)
    axes = plot_probe(probe).axes
    assert axes[0].texts[-1].get_text() == "x" * 53 + "..."
    assert axes[2].texts[-1].get_text() == "two lines"
    assert "y" * 27 + "..." in [tick.get_text() for tick in axes[0].get_yticklabels()]
    assert "**two lines**" in probe.markdown()
