"""Properties of every loss on logits: targets, masks and precision."""

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
    assert value.shape == ()
    value.backward()
    return value.detach(), student.grad


def test_no_mask_includes_all_classes(loss):
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


def test_target_without_an_included_class_is_dropped(loss):
    student, teacher = logits()
    mask = MASK.clone()
    mask[1] = False
    value, gradient = value_and_gradient(loss, student, teacher, LABELS, mask)
    rest = [0, 2]
    torch.testing.assert_close(value, loss(student[rest], teacher[rest], LABELS[rest], mask[rest]))
    assert (gradient[1] == 0).all()


def test_zero_with_zero_gradient_if_all_targets_are_masked(loss):
    value, gradient = value_and_gradient(loss, *logits(), LABELS, torch.zeros_like(MASK))
    assert value == 0
    assert (gradient == 0).all()


def test_zero_with_gradient_without_targets(unmasked_loss):
    value, gradient = value_and_gradient(unmasked_loss, *logits(rows=0), LABELS[:0])
    assert value == 0
    assert gradient.shape == (0, 4)


def test_repeated_targets_do_not_change_the_mean(unmasked_loss):
    student, teacher = logits()
    twice = unmasked_loss(student.repeat(2, 1), teacher.repeat(2, 1), LABELS.repeat(2))
    torch.testing.assert_close(twice, unmasked_loss(student, teacher, LABELS))


# ---- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("teacher_dtype", [None, torch.float32], ids=["same", "float32"])
def test_half_precision_is_computed_in_float32(unmasked_loss, dtype, teacher_dtype):
    student, teacher = logits()
    student, teacher = student.to(dtype), teacher.to(teacher_dtype or dtype)
    value = unmasked_loss(student, teacher, LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, unmasked_loss(student.float(), teacher.float(), LABELS), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_has_the_precision_of_the_logits(unmasked_loss, dtype):
    student, teacher = (z.to(dtype) for z in logits())
    student.requires_grad_()
    unmasked_loss(student, teacher, LABELS).backward()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


def test_under_autocast_the_result_is_float32(unmasked_loss):
    student, teacher = logits()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = unmasked_loss(student, teacher, LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, unmasked_loss(student, teacher, LABELS))


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits_are_finite(unmasked_loss, size):
    student = torch.tensor([[size, -size, 0.0], [-size, size, 0.0], [0.0, size, size]], requires_grad=True)
    teacher = torch.tensor([[-size, size, 0.0], [-size, size, 0.0], [size, 0.0, -size]])
    value = unmasked_loss(student, teacher, torch.arange(3))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("shapes", [[(2, 3, 4)] * 2, [(2, 4, 8, 8)] * 2, [(8, 4), (1, 4)], [(4,)] * 2])
def test_other_shapes_raise(loss, shapes):
    student, teacher = map(torch.randn, shapes)
    with pytest.raises(ValueError, match=r"_loss: (logits and mask|labels) must have"):
        loss(student, teacher, torch.zeros(len(teacher)).long())


def test_second_derivative_is_right_or_refused(loss):
    """With closed-form gradients autograd cannot differentiate again, and would silently drop a part."""
    student, teacher = logits()
    direction, step = torch.randn_like(student), 1e-2
    forward, backward = (
        value_and_gradient(loss, student + sign * step * direction, teacher, LABELS)[1] for sign in (1, -1)
    )
    student.requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(loss(student, teacher, LABELS), student, create_graph=True)
    except RuntimeError as error:
        if "no second derivative" not in str(error):
            raise
    else:
        (second,) = torch.autograd.grad((gradient * direction).sum(), student)
        torch.testing.assert_close(second, (forward - backward) / (2 * step), atol=2e-3, rtol=0.02)
