"""Mean squared error of logits, against NumPy."""

import numpy as np
import pytest
import torch

from lightning_kd.losses import logit_mse_loss


def logits():
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).unbind()


def test_agrees_with_numpy():
    student, teacher = logits()
    expected = np.square(np.float64(student) - np.float64(teacher)).mean()
    assert logit_mse_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_gradient_closed_form():
    student, teacher = logits()
    student.requires_grad_()
    logit_mse_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, 2 * (student.detach() - teacher) / student.numel())


def test_targets_weigh_the_same_for_any_number_of_classes():
    student, teacher = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]]), torch.zeros(2, 4)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    assert logit_mse_loss(student, teacher, mask) == (1 + 9) / 2
