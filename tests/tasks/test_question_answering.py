"""Question answering: heads, decoding, scores by SQuAD's rules."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from lightning_kd import QuestionAnswering, SQuADDataModule
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.tasks.answer_scores import score_answer

RULES = Path(__file__).parents[2] / "benchmarks" / "squad_rules.py"
CONTEXT = "the cat sat on a mat"
OFFSETS = [(0, 0), (0, 0), (0, 0), (0, 3), (4, 7), (8, 11), (12, 14), (15, 16), (17, 20), (0, 0)]
"""[CLS] question [SEP] the cat sat on a mat [SEP]"""


def make_batch(questions, answers=None, context_span=None):
    rows = len(questions)
    batch = {
        "input_ids": torch.ones(rows, 10, dtype=torch.long),
        "row_id": torch.arange(rows),
        "question_index": torch.tensor(questions),
        "window_index": torch.tensor([questions[:row].count(question) for row, question in enumerate(questions)]),
        "context_span": torch.tensor(context_span or [(3, 9)] * rows),
        "offsets": torch.tensor([OFFSETS] * rows),
        "context": [CONTEXT] * rows,
        "question": ["where?"] * rows,
        "id": [f"q{q}" for q in questions],
    }
    return batch if answers is None else {**batch, "answers": answers}


def span_logits(*spans, no_answer=None):
    """Return logits that give the span of each window the score 2 x value, and no answer another."""
    start, end = torch.zeros(2, len(spans), 10)
    for row, (first, last, value) in enumerate(spans):
        start[row, first] = end[row, last] = value
    if no_answer is not None:
        start[:, 0] = end[:, 0] = torch.tensor(no_answer)
    return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def compute_scores(task, *parts):
    metrics = task.metrics([])
    for model_output, batch in parts:
        task.update(metrics, task.outputs(model_output, batch), batch)
    return {name: float(score) for name, score in metrics.compute().items()}


def predict(task, model_output, batch):
    return task.predictions(task.outputs(model_output, batch), batch, [])


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        ("the cat", ["cat", "a dog"]),
        ("The  Cat, sat!", ["cat sat on it", "sat"]),
        ("dog", ["cat"]),
        ("", []),
        ("cat", []),
        ("", ["cat"]),
        ("1,000 km²", ["1000 km²"]),
        ("state-of-the-art", ["state of the art"]),
        ("the", ["."]),  # both without words: F1 is 0 in v1.1 and 100 in v2.0
        ("", ["."]),
        ("the", ["a", "cat"]),
        ("the", []),
        ("cat", ["."]),
    ],
)
def test_scores_follow_the_official_rules(answer, references):
    official = runpy.run_path(str(RULES))["score"]
    for version in ("1.1", "2.0") if references else ("2.0",):
        expected = pytest.approx(official(answer, references, version), abs=1e-9)
        assert score_answer(answer, references, version == "2.0") == expected


@pytest.mark.parametrize(("threshold", "f1"), [(None, 0.0), (0.0, 100.0)])
def test_answer_and_reference_without_words(threshold, f1):
    batch = make_batch([0], [["a"]])  # the answer is "a", too
    assert compute_scores(QuestionAnswering(no_answer_threshold=threshold), (span_logits((7, 7, 1.0)), batch)) == {
        "exact_match": 100.0,
        "f1": f1,
    }


def test_classes_are_context_and_cls():
    task = QuestionAnswering()
    heads = task.outputs(span_logits((3, 4, 1.0)), make_batch([0])).heads
    assert set(heads) == {"start", "end"}
    assert heads["start"].mask.tolist() == [[i == 0 or 3 <= i < 9 for i in range(10)]]
    assert heads["start"].labels is None


def test_labels_are_those_of_the_head():
    batch = {**make_batch([0]), "start_positions": torch.tensor([3]), "end_positions": torch.tensor([4])}
    heads = QuestionAnswering().outputs(span_logits((3, 4, 1.0)), batch).heads
    assert {name: head.labels.tolist() for name, head in heads.items()} == {"start": [3], "end": [4]}


def test_answer_is_cut_from_the_context():
    rows = predict(QuestionAnswering(), span_logits((4, 6, 3.0), (8, 8, 1.0)), make_batch([0, 1]))
    assert [(row["id"], row["answer"], row["score"]) for row in rows] == [("q0", "cat sat on", 6.0), ("q1", "mat", 2.0)]


def test_max_answer_length():
    (row,) = predict(QuestionAnswering(max_answer_length=2), span_logits((3, 8, 3.0)), make_batch([0]))
    assert row["answer"] in ("the", "a mat", "mat")


def test_scores_are_the_mean_over_questions():
    model_output = span_logits((3, 4, 1.0), (8, 8, 1.0))
    f1 = pytest.approx(100 * (1 + 2 / 3) / 2, abs=1e-3)
    for answers, expected in (
        ([["cat"], ["on the mat", "a mat"]], {"exact_match": 100.0, "f1": 100.0}),
        ([["cat"], ["cat mat"]], {"exact_match": 50.0, "f1": f1}),
    ):
        assert compute_scores(QuestionAnswering(), (model_output, make_batch([0, 1], answers))) == expected


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_best_window_of_a_question_answers_it(order):
    spans, questions = [(4, 4, 1.0), (5, 5, 3.0), (8, 8, 2.0)], [7, 7, 3]
    answers = [["sat"], ["sat"], ["nothing"]]
    parts = [(span_logits(spans[i]), make_batch([questions[i]], [answers[i]])) for i in order]
    assert compute_scores(QuestionAnswering(), *parts) == {"exact_match": 50.0, "f1": 50.0}


def test_threshold_decides_between_span_and_no_answer():
    # the best span scores 4; no answer scores 2 in one window of the question and 10 in the other: the lowest is used
    batch = make_batch([0, 0], [[], []])
    model_output = span_logits((4, 4, 2.0), (5, 5, 1.0), no_answer=[1.0, 5.0])
    for threshold, right in ((-3.0, 100.0), (-2.0, 0.0), (0.0, 0.0)):
        task = QuestionAnswering(no_answer_threshold=threshold)
        assert compute_scores(task, (model_output, batch)) == {"exact_match": right, "f1": right}
        rows = task.merge_predictions(predict(task, model_output, batch))
        assert [row["answer"] for row in rows] == ["" if right else "cat"]
    batch = make_batch([0, 0], [["cat"], ["cat"]])
    assert compute_scores(QuestionAnswering(no_answer_threshold=-3.0), (model_output, batch))["f1"] == 0.0


def test_unanswerable_questions_need_a_threshold():
    with pytest.raises(ValueError, match=r"task\.no_answer_threshold: .*'q0'"):
        compute_scores(QuestionAnswering(), (span_logits((4, 4, 1.0)), make_batch([0], [[]])))


def test_merged_predictions_use_the_best_window():
    task = QuestionAnswering()
    rows = [
        {"row_id": 0, "id": "a", "answer": "worse", "score": 1.0, "no_answer_score": 0.0},
        {"row_id": 1, "id": "b", "answer": "other", "score": 0.0, "no_answer_score": 9.0},
        {"row_id": 2, "id": "a", "answer": "better", "score": 2.0, "no_answer_score": 0.0},
    ]
    merged = task.merge_predictions(rows)
    assert [(row["id"], row["answer"]) for row in merged] == [("a", "better"), ("b", "other")]
    assert rows[0]["answer"] == "worse"  # the trainer returns these rows


def test_padding_examples_are_dropped():
    task = QuestionAnswering()
    batch = {**make_batch([5, 6], [["cat"], ["mat"]]), "row_id": torch.tensor([-1, 3])}
    model_output = span_logits((5, 5, 9.0), (8, 8, 1.0))
    assert compute_scores(task, (model_output, batch)) == {"exact_match": 100.0, "f1": 100.0}
    assert [row["answer"] for row in predict(task, model_output, batch)] == ["mat"]
    nothing = {**batch, "row_id": torch.tensor([-1, -1])}
    assert compute_scores(task, (model_output, nothing), (model_output, batch))["f1"] == 100.0


def test_logits_with_padding_of_the_batch():
    # the last position is padding
    task = QuestionAnswering()
    batch = make_batch([0, 1], [["cat"], ["mat"]], [(3, 5), (3, 9)])
    assert compute_scores(task, (span_logits((8, 8, 9.0), (8, 8, 9.0)), batch))["f1"] < 100
    assert task.outputs(span_logits((3, 3, 1.0), (3, 3, 1.0)), batch).heads["end"].mask[0, 5:].any().item() is False


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_first_of_equal_windows_answers(order):
    task = QuestionAnswering()
    windows = [
        (span_logits(span), {**make_batch([7], [["cat"]]), "row_id": torch.tensor([i])})
        for i, span in enumerate([(4, 4, 1.0), (8, 8, 1.0)])
    ]
    assert compute_scores(task, *[windows[i] for i in order])["f1"] == 100.0
    rows = [row for window in windows for row in predict(task, *window)]
    assert [row["answer"] for row in task.merge_predictions(rows)] == ["cat"]


def test_baseline_statistics_and_baseline_score():
    task = QuestionAnswering()
    batch = make_batch([0, 1, 0, 2], [["cat"], [], ["cat"], ["mat"]])
    counts = task.baseline_statistics(task.outputs(span_logits(*[(4, 4, 1.0)] * 4), batch), batch)
    assert counts.tolist() == [2, 1]  # questions, not windows
    assert task.baseline_score(counts) == 10.0
    assert QuestionAnswering(no_answer_threshold=0.0).baseline_score(counts) == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="answers: "):
        task.baseline_statistics(task.outputs(span_logits((4, 4, 1.0)), make_batch([0])), make_batch([0]))


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match=r"task\.max_answer_length: must be >= 1, got 0"):
        QuestionAnswering(max_answer_length=0)
    with pytest.raises(ValueError, match=r"task\.no_answer_threshold: must be a finite number or null, got nan"):
        QuestionAnswering(no_answer_threshold=float("nan"))


def test_other_data_raise():
    data = SQuADDataModule(version=2.0)
    with pytest.raises(ValueError, match=r"task\.no_answer_threshold: "):
        QuestionAnswering().check_data(data)
    QuestionAnswering(no_answer_threshold=0.0).check_data(data)
    with pytest.raises(ValueError, match=r"task: QuestionAnswering .* SimpleNamespace"):
        QuestionAnswering().check_data(as_datamodule_interface(SimpleNamespace(label_names=["a", "b"])))
