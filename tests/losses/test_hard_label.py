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


def test_agrees_with_scipy():
    expected = -log_softmax(np.float64(logits()), axis=-1)[np.arange(6), LABELS].mean()
    assert hard_label_loss(logits(), LABELS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_agrees_with_torch(label_smoothing):
    expected = F.cross_entropy(logits(), LABELS, label_smoothing=label_smoothing)
    torch.testing.assert_close(hard_label_loss(logits(), LABELS, label_smoothing), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_two_classes_closed_form(label_smoothing):
    margin, wrong = 1.5, label_smoothing / 2
    expected = math.log1p(math.exp(-margin)) + wrong * margin
    actual = hard_label_loss(torch.tensor([[margin, 0.0]]), torch.tensor([0]), label_smoothing)
    assert actual.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_closed_form(label_smoothing):
    student = logits().requires_grad_()
    hard_label_loss(student, LABELS, label_smoothing).backward()
    target = (1 - label_smoothing) * np.eye(5)[LABELS] + label_smoothing / 5
    expected = (softmax(np.float64(student.detach()), axis=-1) - target) / 6
    np.testing.assert_allclose(student.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_ignored_labels_drop_their_rows(label_smoothing):
    labels = LABELS.clone()
    labels[[1, 3]] = -100
    student = logits().requires_grad_()
    loss = hard_label_loss(student, labels, label_smoothing)
    loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(logits(), labels, label_smoothing=label_smoothing))
    assert (student.grad[[1, 3]] == 0).all()


def test_all_labels_ignored_give_zero_with_zero_gradient():
    student = logits().requires_grad_()
    loss = hard_label_loss(student, torch.full((6,), -100))
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()


def test_ignored_labels_and_masked_rows_are_dropped_together():
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


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_out_of_range_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=rf"label_smoothing must be in \[0, 1\), got {label_smoothing}"):
        HardLabelLoss(label_smoothing=label_smoothing)


def test_module_is_the_mean_over_heads_and_needs_no_teacher():
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[0, 1:3] = False
    student = Outputs({"start": Head(logits(), LABELS, mask), "end": Head(logits(1), LABELS.flip(0))})
    start = hard_label_loss(logits(), LABELS, 0.1, mask)
    end = hard_label_loss(logits(1), LABELS.flip(0), 0.1)
    torch.testing.assert_close(HardLabelLoss(label_smoothing=0.1)(student), (start + end) / 2)


def test_missing_labels_are_refused():
    with pytest.raises(ValueError, match="HardLabelLoss: head 'end' has no labels"):
        HardLabelLoss()(Outputs({"start": Head(logits(), LABELS), "end": Head(logits())}), None)
