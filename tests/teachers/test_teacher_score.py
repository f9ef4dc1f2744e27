"""A teacher that guesses is refused."""

import pytest
import torch
from torch import nn

from lightning_kd import SequenceClassification
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.teachers.teacher_score import check_teacher_score, evaluate_teacher
from tests.helpers import LABELS

TASK = SequenceClassification()


class Oracle(nn.Module):
    """Answers what it is told: the label plus a shift."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = shift

    def forward(self, answers):
        return nn.functional.one_hot((answers + self.shift) % 3, 3).float()


def evaluate(network, labels, batch_size=8):
    labels = torch.tensor(labels)
    rows = torch.arange(len(labels))
    batches = [
        {"answers": labels[part], "labels": labels[part], "row_id": part % 100} for part in rows.split(batch_size)
    ]
    batches[-1]["row_id"][-1] = -1  # padding: does not count
    return evaluate_teacher(Teacher(network, TASK), TASK, batches, TASK.metrics(LABELS))


def test_perfect_teacher():
    scores, counts = evaluate(Oracle(), [0] * 10 + [1] * 6 + [2] * 5)
    assert scores == {"accuracy": 1.0, "f1_macro": 1.0, "in_scope_accuracy": 1.0, "oos_recall": 1.0}
    assert counts.tolist() == [10, 6, 4]
    check_teacher_score("t", TASK, scores["accuracy"], counts, ignore_weak_teacher=False)


@pytest.mark.parametrize("network", [Oracle(shift=1), Oracle(shift=2)])
def test_teacher_with_its_labels_in_another_order(network):
    scores, counts = evaluate(network, [0] * 10 + [1] * 6 + [2] * 5)
    with pytest.raises(ValueError, match=r"teacher 't' has validation accuracy 0\.0000, no better than guessing"):
        check_teacher_score("t", TASK, scores["accuracy"], counts, ignore_weak_teacher=False)
    check_teacher_score("t", TASK, scores["accuracy"], counts, ignore_weak_teacher=True)


def test_no_batches():
    with pytest.raises(ValueError, match="the validation split has no batch"):
        evaluate_teacher(Teacher(Oracle(), TASK), TASK, [], TASK.metrics(LABELS))
