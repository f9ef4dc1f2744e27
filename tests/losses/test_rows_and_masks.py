import math

import pytest
import torch

MASK = torch.tensor([[True, True, False, True], [False, True, True, False], [True, True, True, True]])
LABELS = torch.tensor([3, 1, 2])


def logits(rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, 4, generator=generator).mul(2).unbind()


def value_and_gradient(loss, student, *args):
    student = student.clone().requires_grad_()
    value = loss(student, *args)
    value.backward()
    return value.detach(), student.grad


def test_all_classes_count_without_mask(loss):
    student, teacher = logits()
    everything = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(loss(student, teacher, LABELS, everything), loss(student, teacher, LABELS))


def test_masked_equals_sliced(loss):
    student, teacher = logits()
    rows = [
        loss(student[[i], MASK[i]][None], teacher[[i], MASK[i]][None], MASK[i, : LABELS[i]].sum()[None])
        for i in range(3)
    ]
    torch.testing.assert_close(loss(student, teacher, LABELS, MASK), torch.stack(rows).mean())


@pytest.mark.parametrize("filling", [math.inf, -math.inf, math.nan, 1e4, -1e4, torch.finfo(torch.float32).min])
def test_masked_logits_have_no_influence(loss, filling):
    student, teacher = logits()
    value, gradient = value_and_gradient(loss, student, teacher, LABELS, MASK)
    filled = [z.masked_fill(~MASK, filling) for z in (student, teacher)]
    filled_value, filled_gradient = value_and_gradient(loss, *filled, LABELS, MASK)
    assert filled_value == value
    assert torch.equal(filled_gradient, gradient)


def test_masked_logits_get_no_gradient(loss):
    student, teacher = logits()
    _, gradient = value_and_gradient(loss, student, teacher, LABELS, MASK)
    assert (gradient[~MASK] == 0).all()
    assert gradient[MASK].isfinite().all()
    assert (gradient[MASK] != 0).any()


def test_row_without_a_class_that_counts_is_dropped(loss):
    student, teacher = logits()
    mask = MASK.clone()
    mask[1] = False
    value, gradient = value_and_gradient(loss, student, teacher, LABELS, mask)
    rest = [0, 2]
    torch.testing.assert_close(value, loss(student[rest], teacher[rest], LABELS[rest], mask[rest]))
    assert (gradient[1] == 0).all()


def test_all_rows_masked_give_zero_with_zero_gradient(loss):
    value, gradient = value_and_gradient(loss, *logits(), LABELS, torch.zeros_like(MASK))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("mask", [None, torch.ones(0, 4, dtype=torch.bool)], ids=["no mask", "mask"])
def test_no_rows_give_zero_with_gradient(loss, mask):
    value, gradient = value_and_gradient(loss, *logits(rows=0), LABELS[:0], mask)
    assert value == 0
    assert gradient.shape == (0, 4)


def test_repeating_the_rows_changes_nothing(loss):
    student, teacher = logits()
    twice = loss(student.repeat(2, 1), teacher.repeat(2, 1), LABELS.repeat(2))
    torch.testing.assert_close(twice, loss(student, teacher, LABELS))


def test_scalar_with_gradient_to_the_student_only(loss):
    student, teacher = (z.requires_grad_() for z in logits())
    value = loss(student, teacher.detach(), LABELS)
    assert value.shape == ()
    assert value.requires_grad
    value.backward()
    assert student.grad.norm() > 0
