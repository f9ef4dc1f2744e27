"""Losses over large vocabularies, computed in chunks: same values, less memory."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_kd.losses import chunked, hard_label_loss, soft_target_loss
from lightning_kd.losses.chunked import chunked_sum


def value_and_gradient(rows, **settings):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, rows, 40, generator=generator).unbind()
    student.requires_grad_()
    value = soft_target_loss(student, teacher, 2.0, **settings)
    (3 * value).backward()
    return value.detach(), student.grad


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, 6, 7, 20])
def test_soft_target_loss_in_chunks(monkeypatch, beta, masked, rows):
    mask = torch.rand(rows, 40, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    whole = value_and_gradient(rows, beta=beta, mask=mask)
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 3 * 40)
    parts = value_and_gradient(rows, beta=beta, mask=mask)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_label_loss_in_chunks(monkeypatch, smoothing):
    logits, labels = torch.randn(20, 40, requires_grad=True), torch.arange(20)
    labels[3:7] = -100
    expected = cross_entropy(logits, labels, label_smoothing=smoothing)
    expected.backward()
    gradient, logits.grad = logits.grad, None
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 3 * 40)
    value = hard_label_loss(logits, labels, smoothing)
    value.backward()
    torch.testing.assert_close((value, logits.grad), (expected, gradient))


def test_without_gradient(monkeypatch):
    student, teacher = torch.randn(2, 10, 40).unbind()
    whole = soft_target_loss(student, teacher)
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 80)
    torch.testing.assert_close(soft_target_loss(student, teacher), whole)
    with torch.no_grad():
        torch.testing.assert_close(soft_target_loss(student.requires_grad_(), teacher), whole)


def test_gradient_has_the_dtype_of_the_logits(monkeypatch):
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 80)
    student = torch.randn(10, 40).bfloat16().requires_grad_()
    value = soft_target_loss(student, torch.randn(10, 40).bfloat16())
    value.backward()
    assert value.dtype == torch.float32
    assert student.grad.dtype == torch.bfloat16


def test_each_row_is_summed_once(monkeypatch):
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 8)
    slices = []

    def row_sum(logits, row_slice):
        slices.append((row_slice.start, len(logits)))
        return logits.sum()

    logits = torch.arange(20.0).reshape(5, 4)
    assert chunked_sum(logits, row_sum) == logits.sum()
    assert slices == [(0, 2), (2, 2), (4, 1)]
    monkeypatch.setattr(chunked, "MAX_CHUNKS", 2)
    slices.clear()
    chunked_sum(logits, row_sum)
    assert slices == [(0, 3), (3, 2)]


def test_small_float16_gradients_do_not_underflow_before_scaling(monkeypatch):
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 4000)
    student, teacher = torch.randn(2, 64, 1000, generator=torch.Generator().manual_seed(0)).half().mul(0.1).unbind()
    gradients = []
    for logits in (student, student.float()):
        logits = logits.clone().requires_grad_()
        (65536 * soft_target_loss(logits, teacher)).backward()
        gradients.append(logits.grad.float())
    torch.testing.assert_close(*gradients, rtol=2e-3, atol=1e-5)


def test_gradient_of_a_teacher_that_requires_it(monkeypatch):
    student, teacher = (torch.randn(10, 40).requires_grad_() for _ in range(2))
    soft_target_loss(student, teacher).backward()
    expected = teacher.grad.clone()
    teacher.grad = None
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 80)
    soft_target_loss(student, teacher).backward()
    torch.testing.assert_close(teacher.grad, expected)


def test_second_backward_raises(monkeypatch):
    monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 80)
    value = soft_target_loss(torch.randn(10, 40, requires_grad=True), torch.randn(10, 40))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward"):
        value.backward()


def peak_bytes(work):
    """Return the peak memory of tensors allocated by a function."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_peak_memory_of_soft_targets_is_a_quarter_of_the_naive():
    rows, vocabulary = 600, 30522
    student = torch.randn(rows, vocabulary, requires_grad=True)
    teacher = torch.randn(rows, vocabulary)

    def naive():
        log_q, log_p = (student / 2).log_softmax(-1), (teacher / 2).log_softmax(-1)
        (log_p.exp() * (log_p - log_q)).sum(-1).mean().backward()
        student.grad = None

    def chunked_loss():
        soft_target_loss(student, teacher, 2.0).backward()
        student.grad = None

    naive_peak, chunked_peak = peak_bytes(naive), peak_bytes(chunked_loss)
    one = rows * vocabulary * 4
    assert naive_peak > 5 * one  # the profiler sees the memory
    assert chunked_peak < naive_peak / 4
