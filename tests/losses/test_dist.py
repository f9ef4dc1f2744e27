"""DIST, against SciPy and the logic of the official code."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import pearsonr

from lightning_kd import DistillationModule, QuestionAnswering
from lightning_kd.losses import DISTLoss, dist_loss
from tests.losses.numeric import numeric_gradient, random_logits, tensors


def reference(student, teacher, temperature, inter_weight, intra_weight):
    q, p = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    inter = np.mean([1 - pearsonr(*pair).statistic for pair in zip(q, p, strict=True)])
    intra = np.mean([1 - pearsonr(*pair).statistic for pair in zip(q.T, p.T, strict=True)])
    return (inter_weight * inter + intra_weight * intra) * temperature**2


def official(student, teacher, temperature, inter_weight, intra_weight):
    """Return the loss by the logic of the official code: cosine of centered values, with 1e-8 in the divisor."""

    def relation(x, y):
        x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1) + 1e-8)
        return 1 - cosine.mean()

    q, p = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    return temperature**2 * (inter_weight * relation(q, p) + intra_weight * relation(q.T, p.T))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.0), (0.0, 2.0)])
def test_agrees_with_scipy_and_the_official_code(temperature, weights):
    student, teacher = random_logits()
    expected = reference(student, teacher, temperature, *weights)
    assert official(student, teacher, temperature, *weights) == pytest.approx(expected, rel=1e-4)
    value = dist_loss(*tensors(student, teacher), temperature, *weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_gradient(weights):
    student, teacher = random_logits(scale=1.0)
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    dist_loss(own, theirs, 2.0, *weights).backward()
    expected = numeric_gradient(lambda z: reference(z, teacher, 2.0, *weights), student)
    np.testing.assert_allclose(own.grad, expected, rtol=1e-4, atol=1e-5)


def test_high_temperature_limit():
    # probabilities become linear in the logits
    student, teacher = random_logits(scale=0.5)
    expected = np.mean([1 - pearsonr(*pair).statistic for pair in zip(student, teacher, strict=True)])
    value = dist_loss(*tensors(student, teacher), 500.0, 1.0, 0.0) / 500.0**2
    assert value.item() == pytest.approx(expected, rel=0.01)


def test_low_temperature_limit():
    # one-hot probabilities: the same class has correlation 1, another one -1 / (C - 1)
    teacher = torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, 1.0]])
    student = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    value = dist_loss(student, teacher, 0.01, 1.0, 0.0) / 0.01**2
    assert value.item() == pytest.approx((0 + 1.5) / 2, rel=1e-5)


def test_logits_that_differ_by_a_constant_give_zero():
    _, teacher = tensors(*random_logits())
    assert dist_loss(teacher + torch.arange(6)[:, None], teacher).item() == pytest.approx(0, abs=1e-6)


def test_unlikely_classes_do_not_underflow():
    # probabilities of 1e-26, whose squares are 0 in float32
    student, teacher = random_logits()
    student[:, 0] -= 60
    teacher[:, 0] -= 60
    expected = reference(student, teacher, 1.0, 0.0, 1.0)
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    value = dist_loss(own, theirs, 1.0, 0.0, 1.0)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert own.grad.isfinite().all()


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("value", [0.0, 7.3, -1e4])
def test_constant_student_has_no_correlation_but_a_gradient(weights, value):
    student, teacher = torch.full((6, 5), value, requires_grad=True), tensors(*random_logits())[1]
    loss = dist_loss(student, teacher, 1.0, *weights)
    loss.backward()
    assert loss.item() == pytest.approx(sum(weights), rel=1e-5)
    assert student.grad.abs().max() < 1
    assert dist_loss(student.detach() - 0.1 * student.grad, teacher, 1.0, *weights) < loss - 0.1


def test_constant_teacher_and_underflow():
    student, _ = tensors(*random_logits())
    student.requires_grad_()
    for teacher in (torch.zeros(6, 5), torch.tensor([[1e4, 0.0, 0.0, 0.0, 0.0]]).repeat(6, 1)):
        loss = dist_loss(student, teacher)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_a_single_example_has_no_correlation_within_classes():
    student, teacher = tensors(*random_logits(rows=1))
    student.requires_grad_()
    loss = dist_loss(student, teacher, 1.0, 0.0, 1.0)
    loss.backward()
    assert loss == 1
    assert (student.grad == 0).all()


def test_mask_with_intra_weight_raises():
    student, teacher = tensors(*random_logits())
    with pytest.raises(ValueError, match=r"intra_weight .* 0\.5"):
        dist_loss(student, teacher, 1.0, 1.0, 0.5, torch.ones(6, 5, dtype=torch.bool))


def test_question_answering_with_intra_weight_raises():
    with pytest.raises(
        ValueError, match=r"losses\.dist: DISTLoss .* QuestionAnswering are positions.*set intra_weight to 0"
    ):
        DistillationModule(QuestionAnswering(), "folder", "teacher", losses={"dist": DISTLoss()})
    DistillationModule(QuestionAnswering(), "folder", "teacher", losses={"dist": DISTLoss(intra_weight=0)})
