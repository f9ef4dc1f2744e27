import math

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy

from lightning_kd.losses import DecoupledKDLoss, decoupled_kd_loss, soft_target_loss
from lightning_kd.outputs import Head, Outputs
from tests.losses.numeric import numeric_gradient, random_logits

LABELS = np.array([0, 4, 2, 2, 1, 3])


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def parts(student, teacher, labels, temperature):
    """Target part and non-target part of each row, as the paper defines them (equations 3 to 6), by SciPy."""
    target, others = [], []
    for own, theirs, label in zip(student, teacher, labels, strict=True):
        q, p = softmax(own / temperature), softmax(theirs / temperature)
        target.append(entropy([p[label], 1 - p[label]], [q[label], 1 - q[label]]))
        p, q = np.delete(p, label), np.delete(q, label)
        others.append(entropy(p / p.sum(), q / q.sum()))
    return np.array(target), np.array(others)


def official(student, teacher, labels, alpha, beta, temperature):
    """The official code's logic: probabilities added up, and 1000 taken from the target's logit."""
    target = np.eye(student.shape[1])[labels]
    q, p = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    q2, p2 = (np.stack([(z * target).sum(1), (z * (1 - target)).sum(1)], axis=1) for z in (q, p))
    tckd = (p2 * (np.log(p2) - np.log(q2))).sum() * temperature**2 / len(labels)
    q3, p3 = (softmax(z / temperature - 1000 * target, axis=1) for z in (student, teacher))
    nckd = entropy(p3[target == 0].reshape(len(labels), -1), q3[target == 0].reshape(len(labels), -1), axis=1)
    return alpha * tckd + beta * nckd.sum() * temperature**2 / len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weights", [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0), (2.0, 0.5)])
def test_equals_the_official_logic_and_the_papers_definition(temperature, weights):
    student, teacher = random_logits()
    expected = official(student, teacher, LABELS, *weights, temperature)
    target, others = parts(student, teacher, LABELS, temperature)
    assert (weights[0] * target + weights[1] * others).mean() * temperature**2 == pytest.approx(expected, rel=1e-9)
    value = decoupled_kd_loss(*tensors(student, teacher), torch.tensor(LABELS), temperature, *weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_plain_kl_is_the_target_part_and_the_teachers_rest_of_the_other(temperature):
    # equation 6: KL = TCKD + (1 - p_target) NCKD, row by row
    student, teacher = random_logits()
    for own, theirs, label in zip(*tensors(student, teacher), torch.tensor(LABELS), strict=True):
        rest = 1 - (theirs / temperature).softmax(-1)[label].item()
        decoupled = decoupled_kd_loss(own[None], theirs[None], label[None], temperature, 1.0, rest)
        torch.testing.assert_close(decoupled, soft_target_loss(own[None], theirs[None], temperature))


def test_gradient():
    student, teacher = random_logits()
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    decoupled_kd_loss(own, theirs, torch.tensor(LABELS), 2.0, 1.0, 8.0).backward()
    expected = numeric_gradient(lambda z: official(z, teacher, LABELS, 1.0, 8.0, 2.0), student)
    np.testing.assert_allclose(own.grad, expected, rtol=1e-4, atol=1e-5)


def test_large_vocabulary_goes_in_chunks():
    student, teacher = random_logits(rows=70, classes=9000)
    labels = np.arange(70) * 100
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    value = decoupled_kd_loss(own, theirs, torch.tensor(labels), 2.0)
    value.backward()
    assert value.item() == pytest.approx(official(student, teacher, labels, 1.0, 8.0, 2.0), rel=1e-4)
    few = torch.tensor(student[:3], dtype=torch.float32, requires_grad=True)
    decoupled_kd_loss(few, theirs[:3], torch.tensor(labels[:3]), 2.0).backward()
    torch.testing.assert_close(own.grad[:3], few.grad * 3 / 70)


def test_teacher_that_learns_gets_its_gradient():
    student, teacher = random_logits()
    own, theirs = tensors(student, teacher)
    theirs.requires_grad_()
    decoupled_kd_loss(own, theirs, torch.tensor(LABELS), 2.0, 1.0, 8.0).backward()
    expected = numeric_gradient(lambda z: official(student, z, LABELS, 1.0, 8.0, 2.0), teacher)
    np.testing.assert_allclose(theirs.grad, expected, rtol=1e-3, atol=1e-4)


def test_high_temperature_limit():
    # with d = z_t - z_s: half the variance of d among the others, and half that of d between target and others
    student, teacher = random_logits(scale=1.0)
    d = teacher - student
    target = d[np.arange(6), LABELS]
    others = np.stack([np.delete(row, label) for row, label in zip(d, LABELS, strict=True)])
    expected = 0.5 * (1 / 5) * (4 / 5) * (target - others.mean(axis=1)) ** 2 + 3 * 0.5 * others.var(axis=1)
    value = decoupled_kd_loss(*tensors(student, teacher), torch.tensor(LABELS), 300.0, 1.0, 3.0)
    assert value.item() == pytest.approx(expected.mean(), rel=0.02)


@pytest.mark.parametrize("margin", [50.0, 500.0])
def test_sure_networks(margin):
    """The official code takes the logarithm of a probability that has become 0."""
    student = torch.tensor([[margin, 1.0, 0.0], [0.0, 1.0, margin]], requires_grad=True)
    teacher = torch.tensor([[margin, 0.0, 1.0], [margin, 1.0, 0.0]])
    value = decoupled_kd_loss(student, teacher, torch.tensor([0, 0]), 1.0, 1.0, 0.0)
    value.backward()
    # the first row agrees; in the second q_target = exp(-margin), so KL = -log q_target
    assert value.item() == pytest.approx(margin / 2, rel=1e-5)
    assert student.grad.isfinite().all()
    others = decoupled_kd_loss(student.detach()[:1], teacher[:1], torch.tensor([0]), 1.0, 0.0, 1.0)
    p = expit(1.0)
    assert others.item() == pytest.approx(entropy([p, 1 - p], [1 - p, p]), rel=1e-5)


def test_two_classes_have_no_others_to_compare():
    student, teacher = torch.tensor([[0.5, 0.0]]), torch.tensor([[2.0, 0.0]])
    label = torch.tensor([1])
    assert decoupled_kd_loss(student, teacher, label, 1.0, 0.0, 8.0) == 0
    torch.testing.assert_close(
        decoupled_kd_loss(student, teacher, label, 1.0, 1.0, 8.0), soft_target_loss(student, teacher)
    )


def test_row_whose_only_class_is_the_target():
    mask = torch.tensor([[True, False, False], [True, True, True]])
    student, teacher = tensors(*random_logits(2, 3))
    student.requires_grad_()
    value = decoupled_kd_loss(student, teacher, torch.tensor([0, 0]), 1.0, 1.0, 8.0, mask)
    value.backward()
    second = decoupled_kd_loss(student[1:], teacher[1:], torch.tensor([0]), 1.0, 1.0, 8.0)
    torch.testing.assert_close(value, second / 2)
    assert (student.grad[0] == 0).all()


def test_rows_without_a_label_are_left_out():
    student, teacher = tensors(*random_logits())
    labels = torch.tensor([0, -100, 2, -100, 1, 3])
    student.requires_grad_()
    value = decoupled_kd_loss(student, teacher, labels)
    kept = labels != -100
    torch.testing.assert_close(value, decoupled_kd_loss(student[kept], teacher[kept], labels[kept]))
    value.backward()
    assert (student.grad[~kept] == 0).all()
    nothing = decoupled_kd_loss(student, teacher, torch.full((6,), -100))
    assert nothing == 0
    nothing.backward()


def outputs(logits, labels=None, mask=None):
    return Outputs({"label": Head(logits, labels, mask)})


def test_pseudo_labels_are_the_teachers_best_class_that_counts():
    student, teacher = tensors(*random_logits())
    labels = torch.tensor([0, -100, 2, -100, 1, 3])
    filled = torch.where(labels == -100, teacher.argmax(-1), labels)
    loss = DecoupledKDLoss(pseudo_labels=True)
    expected = decoupled_kd_loss(student, teacher, filled)
    torch.testing.assert_close(loss(outputs(student, labels), outputs(teacher)), expected)
    everywhere = decoupled_kd_loss(student, teacher, teacher.argmax(-1))
    torch.testing.assert_close(loss(outputs(student), outputs(teacher)), everywhere)
    mask = torch.ones_like(student, dtype=torch.bool).scatter(-1, teacher.argmax(-1, keepdim=True), False)
    second = decoupled_kd_loss(student, teacher, teacher.topk(2).indices[:, 1], mask=mask)
    torch.testing.assert_close(loss(outputs(student, mask=mask), outputs(teacher)), second)
    assert loss.num_elements(outputs(student, labels)) == 6
    assert DecoupledKDLoss().num_elements(outputs(student, labels)) == 4


def test_without_labels_it_says_what_to_do():
    student, teacher = tensors(*random_logits())
    with pytest.raises(ValueError, match=r"head 'label' .* pseudo_labels"):
        DecoupledKDLoss()(outputs(student), outputs(teacher))


@pytest.mark.parametrize("argument", ["target_weight", "nontarget_weight"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_weights_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"DecoupledKDLoss: {argument} must be a finite number >= 0, got {value}"):
        DecoupledKDLoss(**{argument: value})


def test_temperature_out_of_range_is_refused():
    with pytest.raises(ValueError, match="DecoupledKDLoss: temperature must be > 0, got 0"):
        DecoupledKDLoss(temperature=0)
