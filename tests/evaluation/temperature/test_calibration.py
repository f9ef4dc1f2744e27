"""Formulas compared with SciPy, scikit-learn and plain loops."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import log_loss

from lightning_kd.evaluation.temperature import calibration

NUM_EXAMPLES, NUM_CLASSES = 400, 7


@pytest.fixture
def logits():
    return 3 * torch.randn(NUM_EXAMPLES, NUM_CLASSES, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(logits):
    """Drawn at temperature 2, so that the model is overconfident."""
    generator = torch.Generator().manual_seed(2)
    return torch.multinomial((logits / 2).softmax(dim=-1), 1, generator=generator)[:, 0]


def reference_probabilities(logits, temperature):
    return softmax(logits.double().numpy() / temperature, axis=1)


def reference_calibration_error(p, labels, bins=15):
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels.numpy()
    error = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0, 19.0])
def test_against_references(logits, labels, temperature):
    p, log_p = reference_probabilities(logits, temperature), calibration.log_probabilities(logits, temperature)
    assert np.allclose(log_p.exp().numpy(), p, rtol=1e-12)
    assert calibration.entropy(log_p) == pytest.approx(entropy(p, axis=1).mean())
    mass = np.mean([1 - p[n, k] for n, k in enumerate(labels)])
    assert calibration.off_target_mass(log_p, labels) == pytest.approx(mass)
    error = reference_calibration_error(p, labels)
    assert calibration.calibration_error(log_p, labels) == pytest.approx(error, abs=1e-6)
    ranked = np.sort(p, axis=1)
    expected = 100 * (ranked[:, -2] - ranked[:, 0]) / ranked[:, -2]
    assert np.allclose(calibration.relative_difference(log_p).numpy(), expected)
    q, log_q = (f(logits.flip(dims=[1]), temperature) for f in (reference_probabilities, calibration.log_probabilities))
    assert calibration.kl_divergence(log_p, log_q) == pytest.approx(entropy(p, q, axis=1).mean())


def test_calibration_error_at_confidence_one():
    """A confidence of exactly 1 belongs to the last bin, where it nearly cancels one of 0.97."""
    logits = torch.tensor([[math.log(0.97 / 0.03), 0.0]] * 50 + [[800.0, 0.0]] * 50)
    labels = torch.tensor([0] * 98 + [1] * 2)
    log_p = calibration.log_probabilities(logits, 1.0)
    p = log_p.exp().numpy()
    assert (p.max(axis=1) == 1).sum() == 50
    expected = abs((0.97 + 1) / 2 - (1 + 48 / 50) / 2)
    assert reference_calibration_error(p, labels) == pytest.approx(expected)
    assert calibration.calibration_error(log_p, labels) == pytest.approx(expected, abs=1e-6)


def test_temperature_limits(logits, labels):
    hot, cold = calibration.log_probabilities(logits, 1e6), calibration.log_probabilities(logits, 1e-6)
    assert calibration.entropy(hot) == pytest.approx(math.log(NUM_CLASSES))
    assert calibration.entropy(cold) == pytest.approx(0, abs=1e-9)
    assert calibration.off_target_mass(hot, labels) == pytest.approx(1 - 1 / NUM_CLASSES, abs=1e-5)
    error_rate = float((logits.argmax(dim=1) != labels).double().mean())
    assert calibration.off_target_mass(cold, labels) == pytest.approx(error_rate)
    assert calibration.relative_difference(hot).max() < 1e-2
    assert calibration.relative_difference(cold).min() == 100


def test_small_probabilities_are_not_rounded_to_zero():
    log_p = calibration.log_probabilities(torch.tensor([[100.0, 0.0, -1.0]]), 1.0)
    assert float(calibration.relative_difference(log_p)) == pytest.approx(100 * (1 - math.exp(-1)))


def test_best_temperature(logits, labels):
    best = minimize_scalar(
        lambda t: log_loss(labels.numpy(), reference_probabilities(logits, t), labels=range(NUM_CLASSES)),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert calibration.best_temperature(logits, labels) == pytest.approx(best.x, rel=1e-4)
    assert 1.5 < best.x < 2.5


def test_best_temperature_is_none_if_all_correct_or_all_wrong(logits):
    assert calibration.best_temperature(logits, logits.argmax(dim=1)) is None
    assert calibration.best_temperature(logits, logits.argmin(dim=1)) is None


def test_relative_difference_of_equal_classes_is_positive_zero():
    log_p = calibration.log_probabilities(torch.tensor([[1.0, 0.0], [2.0, 2.0]]), 3.0)
    assert [math.copysign(1, value) for value in calibration.relative_difference(log_p).tolist()] == [1, 1]
