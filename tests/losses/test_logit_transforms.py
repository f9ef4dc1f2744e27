"""Standardized logits and merged tail classes, against SciPy."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, zscore

from lightning_kd.losses import soft_target_loss
from lightning_kd.losses.logit_transforms import standardize_logits
from lightning_kd.teachers.logit_codec import LogitCodec
from tests.losses.numeric import numeric_gradient, random_logits, tensors

MASK = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])


def standardized_reference(student, teacher, temperature):
    q, p = (softmax(zscore(z, axis=1) / temperature, axis=1) for z in (student, teacher))
    return entropy(p, q, axis=1).mean() * temperature**2


def test_standardization_ignores_masked_classes():
    student, _ = random_logits(rows=2)
    expected = [zscore(row[kept]) for row, kept in zip(student, MASK.numpy(), strict=True)]
    for filling in (np.nan, np.inf, -np.inf, 1e4):
        filled = tensors(student)[0].masked_fill(~MASK, filling)
        actual = standardize_logits(filled, MASK)
        np.testing.assert_allclose(actual[MASK], np.concatenate(expected), rtol=1e-5)
        assert (actual[~MASK] == 0).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_standardized_loss_agrees_with_the_paper(temperature):
    student, teacher = random_logits()
    value = soft_target_loss(*tensors(student, teacher), temperature, standardize=True)
    assert value.item() == pytest.approx(standardized_reference(student, teacher, temperature), rel=1e-5)


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


@pytest.mark.parametrize("value", [0.0, 3.3, -1e4])
def test_equal_logits(value):
    logits = torch.full((2, 5), value, requires_grad=True)
    teacher = tensors(*random_logits(rows=2))[1]
    assert (standardize_logits(logits).abs() < 1e-2).all()
    loss = soft_target_loss(logits, teacher, 2.0, standardize=True)
    loss.backward()
    assert loss.isfinite()
    # only centered: 2 (q - p) / 2 targets
    p = softmax(zscore(teacher.numpy(), axis=1) / 2, axis=1)
    np.testing.assert_allclose(logits.grad, 2 * (0.2 - p) / 2, atol=2e-3 if value else 1e-6)


# ---- merged tail classes


def merge_tail(student, teacher, temperature, top_k):
    """Return the probabilities of the top k classes, and the sum of the others."""
    q, p = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    top = np.argsort(-teacher, axis=1)[:, :top_k]
    rows = []
    for own, theirs, kept in zip(q, p, top, strict=True):
        rest = np.setdiff1d(np.arange(len(own)), kept)
        rows.append([[*z[kept], z[rest].sum()] for z in (own, theirs)])
    return np.array(rows).transpose(1, 0, 2)


def merged_reference(student, teacher, temperature, top_k):
    q, p = merge_tail(student, teacher, temperature, top_k)
    return entropy(p, q, axis=1).mean() * temperature**2


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_top_k_agrees_with_summed_probabilities(top_k, temperature):
    student, teacher = random_logits()
    value = soft_target_loss(*tensors(student, teacher), temperature, top_k=top_k)
    assert value.item() == pytest.approx(merged_reference(student, teacher, temperature, top_k), rel=1e-4)


def test_reverse_kl_with_top_k():
    student, teacher = random_logits()
    q, p = merge_tail(student, teacher, 2.0, 2)
    value = soft_target_loss(*tensors(student, teacher), 2.0, 1.0, top_k=2)
    assert value.item() == pytest.approx(entropy(q, p, axis=1).mean() * 4, rel=1e-5)


@pytest.mark.parametrize("top_k", [5, 6, 1000])
def test_top_k_of_all_classes_is_the_kl_divergence(top_k):
    student, teacher = tensors(*random_logits())
    assert soft_target_loss(student, teacher, 2.0, top_k=top_k) == soft_target_loss(student, teacher, 2.0)


@pytest.mark.parametrize(
    ("options", "reference"),
    [({"standardize": True}, standardized_reference), ({"top_k": 2}, partial(merged_reference, top_k=2))],
)
def test_gradient(options, reference):
    student, teacher = random_logits()
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    soft_target_loss(own, theirs, 2.0, **options).backward()
    expected = numeric_gradient(lambda z: reference(z, teacher, 2.0), student)
    np.testing.assert_allclose(own.grad, expected, rtol=1e-4, atol=1e-5)


def test_tail_that_underflows():
    # log-space: the rest has a probability of 1e-130
    student = torch.tensor([[300.0, 0.0, 1.0], [0.0, 1.0, 300.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, 0.0, 1.0], [300.0, 1.0, 0.0]])
    value = soft_target_loss(student, teacher, top_k=1)
    value.backward()
    assert value.item() == pytest.approx((0 + 300) / 2, rel=1e-5)
    assert student.grad.isfinite().all()


def test_fewer_classes_than_top_k():
    mask = torch.tensor([[True, False, True, False, False], [True, True, True, True, True]])
    student, teacher = tensors(*random_logits(rows=2))
    value = soft_target_loss(student, teacher, 2.0, 0.0, mask, top_k=3)
    first = soft_target_loss(student[:1, [0, 2]], teacher[:1, [0, 2]], 2.0)
    second = soft_target_loss(student[1:], teacher[1:], 2.0, top_k=3)
    torch.testing.assert_close(value, (first + second) / 2)


def test_a_teacher_cache_with_the_same_top_k_is_exact():
    student, teacher = random_logits()
    codec = LogitCodec(top_k=2)
    row = np.frombuffer(codec.encode(teacher[None].astype(np.float32)), dtype=np.uint8)
    cached = torch.tensor(codec.decode(row[None], 1, *teacher.shape)[0, 0])
    (own,) = tensors(student)
    value = soft_target_loss(own, cached, 1.0, top_k=2).item()
    assert value == pytest.approx(merged_reference(student, teacher, 1.0, 2), rel=1e-4)
