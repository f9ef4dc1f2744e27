import pytest
import torch

LABELS = torch.tensor([0, 1, 2])


def logits(scale=3.0):
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).mul(scale).unbind()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    student, teacher = (z.to(dtype) for z in logits())
    value = loss(student, teacher, LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), LABELS), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision_is_close_to_float32(loss, dtype, tolerance):
    student, teacher = logits()
    half = loss(student.to(dtype), teacher.to(dtype), LABELS)
    torch.testing.assert_close(half, loss(student, teacher, LABELS), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_student_and_teacher_may_differ_in_precision(loss, dtype):
    student, teacher = logits()
    torch.testing.assert_close(
        loss(student.to(dtype), teacher, LABELS), loss(student, teacher, LABELS), rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_has_the_precision_of_the_logits(loss, dtype):
    student, teacher = (z.to(dtype) for z in logits())
    student.requires_grad_()
    loss(student, teacher, LABELS).backward()
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()


def test_under_autocast_the_result_is_float32(loss):
    student, teacher = logits()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teacher, LABELS))


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits_are_finite(loss, size):
    student = torch.tensor([[size, -size, 0.0], [-size, size, 0.0], [0.0, size, size]], requires_grad=True)
    teacher = torch.tensor([[-size, size, 0.0], [-size, size, 0.0], [size, 0.0, -size]])
    value = loss(student, teacher, LABELS)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
