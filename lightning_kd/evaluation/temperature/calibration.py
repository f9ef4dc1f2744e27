"""Numbers that say how soft and how honest probabilities are, from logits (N, C) at a temperature T > 0."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

NUM_BINS = 15
"""Of equal width, for the calibration error."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Between these the best temperature is looked for."""


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Logarithm of softmax(z/T) in float64, (N, C): float32 rounds the first class of a sure network to 1."""
    return (logits.double() / temperature).log_softmax(dim=-1)


def entropy(log_p: Tensor) -> float:
    """-Σ p ln p in nats, mean over rows, in [0, ln C].

    Args:
        log_p: Logarithms of probabilities, (N, C).
    """
    return float(-(log_p.exp() * log_p).sum(dim=-1).mean())


def off_target_mass(log_p: Tensor, labels: Tensor) -> float:
    """1 - p(true class), mean over rows, in [0, 1].

    Args:
        log_p: Logarithms of probabilities, (N, C).
        labels: Index of the true class, (N,).
    """
    return float(1 - log_p.gather(1, labels[:, None]).exp().mean())


def calibration_error(log_p: Tensor, labels: Tensor) -> float:
    """Expected calibration error, Σ |rows of a bin| / N · |accuracy - mean confidence| over 15 bins, in [0, 1].

    The confidence is the highest probability. Naeini et al. 2015; Guo et al. 2017, equation 3.

    Args:
        log_p: Logarithms of probabilities, (N, C).
        labels: Index of the true class, (N,).
    """
    # torchmetrics, which computes in float32, has a bin of its own for exactly 1
    p = log_p.exp().clamp(max=1 - 2**-24)
    return float(multiclass_calibration_error(p, labels, p.shape[-1], n_bins=NUM_BINS, norm="l1"))


def kl_divergence(log_p: Tensor, log_q: Tensor) -> float:
    """KL(p ‖ q) = Σ p (ln p - ln q) in nats, mean over rows, >= 0.

    Args:
        log_p: Logarithms of the teacher's probabilities, (N, C).
        log_q: Those of the student's.
    """
    return float((log_p.exp() * (log_p - log_q)).sum(dim=-1).mean())


def relative_difference(log_p: Tensor) -> Tensor:
    """(p₂ - p_last) / p₂ · 100 of the second and the last class, (N,), in % from 0 (alike) to 100.

    It is 100 · (1 - exp(-(z₂ - z_last) / T)).

    Args:
        log_p: Logarithms of probabilities, (N, C), C >= 2.
    """
    ranked = log_p.sort(dim=-1, descending=True).values
    return 100 * torch.expm1(ranked[:, -1] - ranked[:, 1]).abs()  # -0.0 of classes alike has no sign


def best_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature at which the labels are likeliest (temperature scaling, Guo et al. 2017).

    The mean of -ln p(true class) is convex in 1/T, so that one bisection of its derivative
    ⟨Σ p z - z(true class)⟩ finds it.

    Args:
        logits: (N, C).
        labels: Index of the true class, (N,).

    Returns:
        None where it is not between 0.01 and 100, as for a network that is always right.
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
