"""Divergence of softened distributions, against closed forms and SciPy."""

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, rel_entr, softmax

from lightning_kd.losses import soft_target_loss

BETAS = [0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6, 1]


def logits(rows=6, scale=3.0):
    values = np.random.default_rng(0).normal(size=(2, rows, 5)) * scale
    return torch.tensor(values, dtype=torch.float32).unbind()


@pytest.mark.parametrize("temperature", [0.5, 1, 19])
def test_forward_kl_gradient_closed_form(temperature):
    student, teacher = logits()
    q, p = (softmax(np.float64(z) / temperature, axis=-1) for z in (student, teacher))
    expected = temperature * (q - p) / len(student)  # T² from the factor, 1/T from the chain rule
    student.requires_grad_()
    soft_target_loss(student, teacher, temperature).backward()
    np.testing.assert_allclose(student.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 1])
def test_high_temperature_limit(beta):
    # p and q are uniform but for d = (z_t - z_s)/T; every divergence is then Σ (d - mean d)² / 2C, times T²
    student, teacher = logits(scale=1.0)
    expected = (teacher - student).var(dim=-1, correction=0).mean() / 2
    torch.testing.assert_close(soft_target_loss(student, teacher, 200.0, beta), expected, rtol=0.02, atol=0)


def test_low_temperature_limit():
    # p is all on the teacher's first choice, so KL is the student's margin to it, over T
    student, teacher = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert soft_target_loss(student, teacher, 0.01).item() == pytest.approx(0.01 * 3, rel=1e-4)


def reference(student, teacher, temperature=1.0, beta=0.0):
    log_p, log_q = (log_softmax(np.float64(z) / temperature, axis=-1) for z in (teacher, student))
    p, q = np.exp(log_p), np.exp(log_q)
    if beta == 0:
        rows = (p * (log_p - log_q)).sum(-1)
    elif beta == 1:
        rows = (q * (log_q - log_p)).sum(-1)
    else:
        m = beta * p + (1 - beta) * q
        rows = beta * rel_entr(p, m).sum(-1) + (1 - beta) * rel_entr(q, m).sum(-1)
        rows /= beta * (1 - beta)
    return temperature**2 * rows.mean()


def gradient(student, teacher, *args):
    student = student.clone().requires_grad_()
    soft_target_loss(student, teacher, *args).backward()
    return student.grad


@pytest.mark.parametrize("scale", [1, 3, 30, 1e4])
@pytest.mark.parametrize("temperature", [0.5, 1, 2, 19])
@pytest.mark.parametrize("beta", BETAS)
def test_agrees_with_scipy(beta, temperature, scale):
    student, teacher = logits(scale=scale)
    expected = reference(student, teacher, temperature, beta)
    assert soft_target_loss(student, teacher, temperature, beta).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_agrees_with_finite_differences(beta):
    student, teacher = logits(rows=3, scale=1.5)
    start = student.double().numpy().ravel()
    expected = approx_fprime(start, lambda z: reference(z.reshape(3, 5), teacher, 2.0, beta), 1e-5)
    np.testing.assert_allclose(gradient(student, teacher, 2.0, beta).ravel(), expected, atol=2e-4)


@pytest.mark.parametrize("beta", BETAS)
def test_zero_for_logits_that_differ_by_a_constant(beta):
    student, _ = logits()
    assert abs(soft_target_loss(student, student + 3, 2.0, beta)) < 1e-5


@pytest.mark.parametrize("beta", [1e-18, 1e-8, 1 - 1e-8])
def test_beta_next_to_an_end_is_finite(beta):
    student, teacher = logits(scale=30)
    assert soft_target_loss(student, teacher, 1.0, beta).isfinite()
    assert gradient(student, teacher, 1.0, beta).isfinite().all()


def test_largest_temperature_against_float64():
    student, teacher = (torch.randn(64, 50, dtype=torch.float64) for _ in range(2))
    log_q, log_p = ((z / 1000).log_softmax(-1) for z in (student, teacher))
    exact = 1000**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    assert float(soft_target_loss(student.float(), teacher.float(), 1000)) == pytest.approx(float(exact), rel=2e-3)
    for temperature in (1001, 0, float("nan")):
        with pytest.raises(ValueError, match=r"^soft_target_loss: temperature must be > 0 and <= 1000, got"):
            soft_target_loss(student, teacher, temperature)
