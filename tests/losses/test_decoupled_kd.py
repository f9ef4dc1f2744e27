"""Decoupled knowledge distillation, against the paper's definition and the logic of the official code."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy

from lightning_kd.losses import DecoupledKDLoss, decoupled_kd_loss, soft_target_loss
from lightning_kd.outputs import Head, Outputs
from tests.losses.numeric import numeric_gradient, random_logits, tensors

LABELS = np.array([0, 4, 2, 2, 1, 3])


def parts(student, teacher, labels, temperature):
    """Return the target and non-target parts of each example (equations 3 to 6) by SciPy."""
    target, others = [], []
    for own, theirs, label in zip(student, teacher, labels, strict=True):
        q, p = softmax(own / temperature), softmax(theirs / temperature)
        target.append(entropy([p[label], 1 - p[label]], [q[label], 1 - q[label]]))
        p, q = np.delete(p, label), np.delete(q, label)
        others.append(entropy(p / p.sum(), q / q.sum()))
    return np.array(target), np.array(others)


def official(student, teacher, labels, alpha, beta, temperature):
    """Return the loss by the logic of the official code, which subtracts 1000 from the target's logit."""
    target = np.eye(student.shape[1])[labels]
    q, p = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    q2, p2 = (np.stack([(z * target).sum(1), (z * (1 - target)).sum(1)], axis=1) for z in (q, p))
    tckd = (p2 * (np.log(p2) - np.log(q2))).sum() * temperature**2 / len(labels)
    q3, p3 = (softmax(z / temperature - 1000 * target, axis=1) for z in (student, teacher))
    nckd = entropy(p3[target == 0].reshape(len(labels), -1), q3[target == 0].reshape(len(labels), -1), axis=1)
    return alpha * tckd + beta * nckd.sum() * temperature**2 / len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weights", [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0), (2.0, 0.5)])
def test_agrees_with_the_official_code_and_the_paper(temperature, weights):
    student, teacher = random_logits()
    expected = official(student, teacher, LABELS, *weights, temperature)
    target, others = parts(student, teacher, LABELS, temperature)
    assert (weights[0] * target + weights[1] * others).mean() * temperature**2 == pytest.approx(expected, rel=1e-9)
    value = decoupled_kd_loss(*tensors(student, teacher), torch.tensor(LABELS), temperature, *weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("which", [0, 1], ids=["student", "teacher"])
def test_gradient(which):
    arrays = random_logits()
    logits = tensors(*arrays)
    logits[which].requires_grad_()
    decoupled_kd_loss(*logits, torch.tensor(LABELS), 2.0, 1.0, 8.0).backward()

    def loss_at(z):
        student, teacher = (z, arrays[1]) if which == 0 else (arrays[0], z)
        return official(student, teacher, LABELS, 1.0, 8.0, 2.0)

    np.testing.assert_allclose(logits[which].grad, numeric_gradient(loss_at, arrays[which]), rtol=1e-4, atol=1e-5)


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
def test_confident_models(margin):
    """The official code takes the logarithm of a probability that underflows to 0."""
    student = torch.tensor([[margin, 1.0, 0.0], [0.0, 1.0, margin]], requires_grad=True)
    teacher = torch.tensor([[margin, 0.0, 1.0], [margin, 1.0, 0.0]])
    value = decoupled_kd_loss(student, teacher, torch.tensor([0, 0]), 1.0, 1.0, 0.0)
    value.backward()
    # the first example agrees; in the second q_target = exp(-margin), so KL = -log q_target
    assert value.item() == pytest.approx(margin / 2, rel=1e-5)
    assert student.grad.isfinite().all()
    others = decoupled_kd_loss(student.detach()[:1], teacher[:1], torch.tensor([0]), 1.0, 0.0, 1.0)
    p = expit(1.0)
    assert others.item() == pytest.approx(entropy([p, 1 - p], [1 - p, p]), rel=1e-5)


def test_two_classes_have_no_nontarget_part():
    student, teacher = torch.tensor([[0.5, 0.0]]), torch.tensor([[2.0, 0.0]])
    label = torch.tensor([1])
    assert decoupled_kd_loss(student, teacher, label, 1.0, 0.0, 8.0) == 0
    torch.testing.assert_close(
        decoupled_kd_loss(student, teacher, label, 1.0, 1.0, 8.0), soft_target_loss(student, teacher)
    )


def test_target_as_the_only_class():
    mask = torch.tensor([[True, False, False], [True, True, True]])
    student, teacher = tensors(*random_logits(2, 3))
    student.requires_grad_()
    value = decoupled_kd_loss(student, teacher, torch.tensor([0, 0]), 1.0, 1.0, 8.0, mask)
    value.backward()
    second = decoupled_kd_loss(student[1:], teacher[1:], torch.tensor([0]), 1.0, 1.0, 8.0)
    torch.testing.assert_close(value, second / 2)
    assert (student.grad[0] == 0).all()


def test_unlabeled_examples_are_ignored():
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


def test_pseudo_labels_are_the_teachers_most_likely_included_class():
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


def test_missing_labels_raise():
    student, teacher = tensors(*random_logits())
    with pytest.raises(ValueError, match=r"head 'label' .* pseudo_labels"):
        DecoupledKDLoss()(outputs(student), outputs(teacher))
