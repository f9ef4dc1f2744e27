"""Sequence classification: heads, metrics, baseline, predictions."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import accuracy_score, f1_score, recall_score
from transformers.modeling_outputs import SequenceClassifierOutput

from lightning_kd import SequenceClassification

NAMES = ["greet", "leave", "pay", "never", "oos"]
OOS = 4


def compute_metrics(true, predicted, sizes, names=NAMES, task=None):
    """Return the metrics over batches of the given sizes."""
    task = task or SequenceClassification()
    metrics = task.metrics(names)
    logits = torch.eye(len(names))[torch.as_tensor(predicted)]
    labels = torch.as_tensor(true)
    for rows in torch.arange(len(labels)).split(sizes):
        batch = {"labels": labels[rows], "row_id": rows}
        task.update(metrics, task.outputs(SequenceClassifierOutput(logits=logits[rows]), batch), batch)
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize(
    ("sizes", "first"),
    # torchmetrics would merge metrics that are equal after the first batch into a compute group
    [(100, None), (32, None), (7, None), (10, "in scope"), (10, "oos")],
)
def test_metrics_agree_with_scikit_learn(sizes, first):
    generator = np.random.default_rng(0)
    true = generator.choice([0, 1, 2, OOS], 100)  # NAMES[3] occurs nowhere
    predicted = np.where(generator.random(100) < 0.6, true, generator.choice([0, 1, 2, OOS], 100))
    if first is not None:
        order = np.argsort((true == OOS) == (first == "in scope"), kind="stable")
        true, predicted = true[order], predicted[order]
    inside = true != OOS
    assert compute_metrics(true, predicted, sizes) == pytest.approx(
        {
            "accuracy": accuracy_score(true, predicted),
            "f1_macro": f1_score(true, predicted, average="macro"),
            "in_scope_accuracy": accuracy_score(true[inside], predicted[inside]),
            "oos_recall": recall_score(true == OOS, predicted == OOS),
        }
    )


def test_no_out_of_scope_metrics_without_that_label():
    assert set(compute_metrics([0, 1], [0, 0], 2, ["negative", "positive"])) == {"accuracy", "f1_macro"}


def test_oos_label():
    scores = compute_metrics([0, 1, 1], [0, 1, 0], 3, ["a", "None of these"], SequenceClassification("None of these"))
    assert scores["oos_recall"] == pytest.approx(0.5)
    assert scores["in_scope_accuracy"] == 1


def test_a_single_label_can_be_scored():
    assert compute_metrics([0, 0], [0, 0], 2, ["only"])["accuracy"] == 1


def test_padding_examples_are_dropped():
    logits = torch.eye(5)[:3]
    batch = {"labels": torch.tensor([0, 1, 2]), "row_id": torch.tensor([7, -1, 0])}
    outputs = SequenceClassification().outputs(logits, batch)
    assert outputs.num_targets == 2
    assert torch.equal(outputs.heads["label"].logits, logits[[0, 2]])
    assert outputs.heads["label"].labels.tolist() == [0, 2]


def test_a_batch_of_padding_examples_is_not_scored():
    # the last batch of a device, if the devices do not divide the examples
    task = SequenceClassification()
    metrics = task.metrics(NAMES)
    for labels, row_ids in (([0, 1], [0, 1]), ([2], [-1])):
        batch = {"labels": torch.tensor(labels), "row_id": torch.tensor(row_ids)}
        task.update(metrics, task.outputs(torch.eye(5)[: len(labels)], batch), batch)
    assert metrics.compute()["accuracy"] == 1


def test_predictions_need_no_labels():
    task = SequenceClassification()
    logits = torch.tensor([[0.0, 3.0, 0.0], [9.0, 9.0, 9.0], [1.0, 0.0, 0.0]], dtype=torch.bfloat16)
    outputs = task.outputs(logits, {"row_id": torch.tensor([4, -1, 2])})
    assert outputs.heads["label"].labels is None
    rows = task.predictions(outputs, {}, ["a", "b", "c"])
    assert [row["label"] for row in rows] == ["b", "a"]
    expected = logits[[0, 2]].float().softmax(-1).amax(-1).tolist()
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=1e-6)


# ---- baseline score


@pytest.mark.parametrize("counts", [[20] * 150, [436, 436], [900, 50, 50], [30, 20], [1000] + [20] * 150])
def test_a_teacher_that_predicts_one_class_rarely_exceeds_the_baseline_score(counts):
    baseline = SequenceClassification().baseline_score(torch.tensor(counts))
    rows, majority = sum(counts), max(counts) / sum(counts)
    assert majority < baseline < 1
    assert binom.sf(np.floor(baseline * rows), rows, majority) < 0.05


@pytest.mark.parametrize(("counts", "expected"), [([20] * 150, 1 / 150), ([5], 0), ([0, 7, 0], 0)])
def test_baseline_score_of_balanced_examples_and_of_a_single_class(counts, expected):
    assert SequenceClassification().baseline_score(torch.tensor(counts)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("counts", [[1, 1], [2, 1], [1, 1, 1], [5, 1]])
def test_a_perfect_teacher_exceeds_the_baseline_score_on_few_examples(counts):
    assert max(counts) / sum(counts) < SequenceClassification().baseline_score(torch.tensor(counts)) < 1
