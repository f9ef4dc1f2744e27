import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, zscore

from lightning_kd.losses import SoftTargetLoss, soft_target_loss
from lightning_kd.losses.logit_transforms import standardize_logits
from lightning_kd.outputs import Head, Outputs
from tests.losses.numeric import numeric_gradient, random_logits

MASK = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def reference(student, teacher, temperature):
    q, p = (softmax(zscore(z, axis=1) / temperature, axis=1) for z in (student, teacher))
    return entropy(p, q, axis=1).mean() * temperature**2


def test_equals_scipys_zscore():
    student, _ = random_logits()
    np.testing.assert_allclose(standardize_logits(torch.tensor(student)), zscore(student, axis=1), rtol=1e-5)


def test_masked_classes_take_no_part():
    student, _ = random_logits(rows=2)
    expected = [zscore(row[kept]) for row, kept in zip(student, MASK.numpy(), strict=True)]
    for filling in (np.nan, np.inf, -np.inf, 1e4):
        filled = tensors(student)[0].masked_fill(~MASK, filling)
        actual = standardize_logits(filled, MASK)
        np.testing.assert_allclose(actual[MASK], np.concatenate(expected), rtol=1e-5)
        assert (actual[~MASK] == 0).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_loss_equals_the_paper(temperature):
    student, teacher = random_logits()
    value = soft_target_loss(*tensors(student, teacher), temperature, standardize=True)
    assert value.item() == pytest.approx(reference(student, teacher, temperature), rel=1e-5)


def test_official_code_is_another_temperature():
    # it divides by K - 1 in the deviation, and adds 1e-7 to it
    student, teacher = random_logits()
    q, p = (
        softmax((z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, ddof=1, keepdims=True)) / 2, axis=1)
        for z in (student, teacher)
    )
    official = entropy(p, q, axis=1).mean() * 2**2
    value = soft_target_loss(*tensors(student, teacher), 2 * (5 / 4) ** 0.5, standardize=True) * 4 / 5
    assert value.item() == pytest.approx(official, rel=1e-5)


def test_gradient():
    student, teacher = random_logits()
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    soft_target_loss(own, theirs, 2.0, standardize=True).backward()
    expected = numeric_gradient(lambda z: reference(z, teacher, 2.0), student)
    np.testing.assert_allclose(own.grad, expected, rtol=1e-4, atol=1e-5)


def test_spread_and_shift_do_not_matter():
    student, teacher = tensors(*random_logits())
    assert soft_target_loss(3 * teacher + 7, teacher, 2.0, standardize=True).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(
        soft_target_loss(student / 5 - 1, teacher, 2.0, standardize=True),
        soft_target_loss(student, teacher, 2.0, standardize=True),
    )


@pytest.mark.parametrize("value", [0.0, 3.3, -1e4])
def test_row_of_equal_logits(value):
    logits = torch.full((2, 5), value, requires_grad=True)
    teacher = tensors(*random_logits(rows=2))[1]
    assert (standardize_logits(logits).abs() < 1e-2).all()
    loss = soft_target_loss(logits, teacher, 2.0, standardize=True)
    loss.backward()
    assert loss.isfinite()
    # of the logits less their mean: 2 (q - p) / 2 rows, no deviation to divide by
    p = softmax(zscore(teacher.numpy(), axis=1) / 2, axis=1)
    np.testing.assert_allclose(logits.grad, 2 * (0.2 - p) / 2, atol=2e-3 if value else 1e-6)


def test_module_passes_it_on():
    student, teacher = tensors(*random_logits(rows=2))
    loss = SoftTargetLoss(temperature=2.0, standardize=True)
    actual = loss(Outputs({"label": Head(student, mask=MASK)}), Outputs({"label": Head(teacher)}))
    torch.testing.assert_close(actual, soft_target_loss(student, teacher, 2.0, 0.0, MASK, standardize=True))
    assert actual != soft_target_loss(student, teacher, 2.0, 0.0, MASK)
