"""Numerical gradients of float64 references, and inputs."""

import numpy as np
import torch

STEP = 1e-5


def numeric_gradient(function, point):
    """Return the gradient of a function of an array by central differences."""
    point = np.asarray(point, dtype=np.float64)
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[index] = STEP
        gradient[index] = (function(point + shift) - function(point - shift)) / (2 * STEP)
    return gradient


def random_logits(rows=6, classes=5, scale=2.0, seed=0):
    """Return random logits of student and teacher, float64."""
    return np.random.default_rng(seed).normal(size=(2, rows, classes)) * scale


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]
