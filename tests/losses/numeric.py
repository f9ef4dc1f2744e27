"""Gradients by differences, of references in float64."""

import numpy as np

STEP = 1e-5


def numeric_gradient(function, point):
    """Central differences of a function of an array, at an array."""
    point = np.asarray(point, dtype=np.float64)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[index] = STEP
        gradient[index] = (function(point + shift) - function(point - shift)) / (2 * STEP)
    return gradient


def random_logits(rows=6, classes=5, scale=2.0, seed=0):
    """Student's and teacher's, float64."""
    return np.random.default_rng(seed).normal(size=(2, rows, classes)) * scale
