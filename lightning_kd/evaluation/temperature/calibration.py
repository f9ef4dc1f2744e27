"""Softness and calibration of probabilities, from logits (N, C) at a temperature T > 0."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

NUM_BINS = 15
"""Number of equal-width bins of the calibration error."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Search range of the best temperature."""


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(z/T) in float64, (N, C); float32 would round high probabilities to 1.

    Args:
        logits: Logits z, (N, C).
        temperature: T > 0.
    """
    return (logits.double() / temperature).log_softmax(dim=-1)


def entropy(log_p: Tensor) -> float:
    """Return the mean entropy -Σ p ln p in nats, in [0, ln C].

    Args:
        log_p: Log-probabilities, (N, C).
    """
    return float(-(log_p.exp() * log_p).sum(dim=-1).mean())


def off_target_mass(log_p: Tensor, labels: Tensor) -> float:
    """Return the mean probability mass 1 - p(true class), in [0, 1].

    Args:
        log_p: Log-probabilities, (N, C).
        labels: Index of the true class, (N,).
    """
    return float(1 - log_p.gather(1, labels[:, None]).exp().mean())


def calibration_error(log_p: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error, in [0, 1].

    Σ |examples in bin| / N · |accuracy - mean confidence| over 15 bins, where the confidence is the highest
    probability. Naeini et al. 2015; Guo et al. 2017, equation 3.

    Args:
        log_p: Log-probabilities, (N, C).
        labels: Index of the true class, (N,).
    """
    # torchmetrics computes in float32 and puts a confidence of exactly 1 into an additional bin
    p = log_p.exp().clamp(max=1 - 2**-24)
    return float(multiclass_calibration_error(p, labels, p.shape[-1], n_bins=NUM_BINS, norm="l1"))


def kl_divergence(log_p: Tensor, log_q: Tensor) -> float:
    """Return the mean KL(p ‖ q) = Σ p (ln p - ln q) in nats, >= 0.

    Args:
        log_p: Log-probabilities of the teacher, (N, C).
        log_q: Log-probabilities of the student, (N, C).
    """
    return float((log_p.exp() * (log_p - log_q)).sum(dim=-1).mean())


def relative_difference(log_p: Tensor) -> Tensor:
    """Return 100 · (p₂ - p_last) / p₂ of the second most likely and the least likely class, (N,), in [0, 100] %.

    Equals 100 · (1 - exp(-(z₂ - z_last) / T)).

    Args:
        log_p: Log-probabilities, (N, C), C >= 2.
    """
    ranked = log_p.sort(dim=-1, descending=True).values
    return 100 * torch.expm1(ranked[:, -1] - ranked[:, 1]).abs()  # avoids -0.0


def best_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Return the temperature that maximizes the likelihood of the labels (temperature scaling, Guo et al. 2017).

    The mean of -ln p(true class) is convex in 1/T, so bisection of its derivative ⟨Σ p z - z(true class)⟩ finds the
    minimum.

    Args:
        logits: Logits z, (N, C).
        labels: Index of the true class, (N,).

    Returns:
        The temperature; None if it is not in [0.01, 100], as for a model without errors.
    """
    z = logits.double()
    true = z.gather(1, labels[:, None]).mean()

    def slope(temperature: float) -> float:
        return float((log_probabilities(z, temperature).exp() * z).sum(dim=-1).mean() - true)

    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    if slope(MIN_TEMPERATURE) <= 0 or slope(MAX_TEMPERATURE) >= 0:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(low)
