import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from scipy.stats import entropy

from lightning_kd.losses import SoftTargetLoss, soft_target_loss
from lightning_kd.outputs import Head, Outputs


def logits(rows=6, scale=3.0):
    values = np.random.default_rng(0).normal(size=(2, rows, 5)) * scale
    return torch.tensor(values, dtype=torch.float32).unbind()


def test_forward_kl_is_relative_entropy():
    student, teacher = logits()
    expected = entropy(softmax(teacher.double(), axis=-1), softmax(student.double(), axis=-1), axis=-1).mean()
    assert soft_target_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_two_classes_closed_form():
    student, teacher = torch.tensor([[-0.8, 0.0]]), torch.tensor([[1.4, 0.0]])
    p, q = expit(1.4), expit(-0.8)
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert soft_target_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


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


def test_mean_or_zero_not_over_classes():
    student, teacher = logits()
    expected = F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean") * 4
    torch.testing.assert_close(soft_target_loss(student, teacher, 2.0), expected)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        SoftTargetLoss(temperature=temperature)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\], got {beta}"):
        SoftTargetLoss(beta=beta)


def test_module_is_the_mean_over_heads():
    student, teacher = logits()
    mask = torch.arange(5) < torch.arange(1, 7)[:, None].clamp(max=5)
    loss = SoftTargetLoss(temperature=3.0, beta=0.2)
    actual = loss(
        Outputs({"start": Head(student, mask=mask), "end": Head(student.flip(0))}),
        Outputs({"start": Head(teacher), "end": Head(teacher)}),
    )
    start = soft_target_loss(student, teacher, 3.0, 0.2, mask)
    end = soft_target_loss(student.flip(0), teacher, 3.0, 0.2)
    torch.testing.assert_close(actual, (start + end) / 2)


def test_logits_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"'label': student .*\(2, 3\).* teacher .*\(2, 4\)"):
        SoftTargetLoss()(Outputs({"label": Head(torch.zeros(2, 3))}), Outputs({"label": Head(torch.zeros(2, 4))}))
