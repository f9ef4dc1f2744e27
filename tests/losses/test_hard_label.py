"""Cross-entropy with label smoothing, against SciPy and PyTorch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax

from lightning_kd.losses import HardLabelLoss, hard_label_loss
from lightning_kd.outputs import Head, Outputs

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def logits(seed=0):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_agrees_with_scipy(label_smoothing):
    log_p = log_softmax(np.float64(logits()), axis=-1)
    expected = (label_smoothing - 1) * log_p[np.arange(6), LABELS].mean() - label_smoothing * log_p.mean()
    assert hard_label_loss(logits(), LABELS, label_smoothing).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_closed_form(label_smoothing):
    student = logits().requires_grad_()
    hard_label_loss(student, LABELS, label_smoothing).backward()
    target = (1 - label_smoothing) * np.eye(5)[LABELS] + label_smoothing / 5
    expected = (softmax(np.float64(student.detach()), axis=-1) - target) / 6
    np.testing.assert_allclose(student.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unlabeled", [[1, 3], [0, 1, 2, 3, 4, 5]], ids=["some", "all"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_unlabeled_targets_are_dropped(label_smoothing, unlabeled):
    labels, kept = LABELS.clone(), [row for row in range(6) if row not in unlabeled]
    labels[unlabeled] = -100
    student = logits().requires_grad_()
    loss = hard_label_loss(student, labels, label_smoothing)
    loss.backward()
    torch.testing.assert_close(loss, hard_label_loss(logits()[kept], LABELS[kept], label_smoothing))
    assert (student.grad[unlabeled] == 0).all()


def test_unlabeled_and_masked_targets_are_dropped():
    labels = torch.tensor([-100, 4, 2, 2, 1, 3])
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(
        hard_label_loss(logits(), labels, 0.1, mask), hard_label_loss(logits()[2:], LABELS[2:], 0.1)
    )


def test_masked_classes_get_no_smoothing_mass():
    mask = torch.tensor([[True, True, False]])
    actual = hard_label_loss(torch.tensor([[1.0, 0.0, 5.0]]), torch.tensor([0]), 0.2, mask)
    assert actual.item() == pytest.approx(math.log1p(math.exp(-1)) + 0.1, rel=1e-6)


def test_missing_labels_raise():
    with pytest.raises(ValueError, match="HardLabelLoss: head 'end' has no labels"):
        HardLabelLoss()(Outputs({"start": Head(logits(), LABELS), "end": Head(logits())}), None)


# ---- training signal annealing


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7])
def test_labels_above_the_threshold_are_ignored(alpha):
    student_logits, labels = logits(), LABELS.clone()
    student_logits[[0, 3], LABELS[[0, 3]]] += 9
    labels[5] = -100
    loss, student = HardLabelLoss(tsa_threshold=alpha), Outputs({"label": Head(student_logits, labels)})
    threshold = alpha * (1 - 1 / 5) + 1 / 5
    p = softmax(np.float64(student_logits), axis=1)
    kept = [-np.log(p[i, y]) for i, y in enumerate(labels.tolist()) if y >= 0 and p[i, y] <= threshold]
    assert 0 < len(kept) < 5
    assert float(loss(student)) == pytest.approx(np.mean(kept), rel=1e-5)
    assert int(loss.num_elements(student)) == len(kept)


def test_no_label_is_ignored_at_threshold_1_and_in_eval_mode():
    student, expected = Outputs({"label": Head(logits(), LABELS)}), F.cross_entropy(logits(), LABELS)
    torch.testing.assert_close(HardLabelLoss(tsa_threshold=1.0)(student), expected)
    torch.testing.assert_close(HardLabelLoss(tsa_threshold=0.0).eval()(student), expected)
