"""Losses over large vocabularies, computed in chunks: same values, less memory."""

import pytest
import torch

from lightning_kd.losses import chunked, soft_target_loss
from lightning_kd.losses.chunked import chunked_sum


@pytest.fixture
def small_chunks(monkeypatch):
    """Return a function that makes the minimum of a chunk 120 logits."""
    return lambda: monkeypatch.setattr(chunked, "MIN_CHUNK_SIZE", 120)


@pytest.mark.parametrize("rows", [1, 6, 7, 20])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("teacher_learns", [False, True])
def test_chunks_change_neither_value_nor_gradients(small_chunks, loss, teacher_learns, masked, rows):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, rows, 40, generator=generator).unbind()
    labels = torch.arange(rows)
    mask = (torch.rand(rows, 40, generator=generator) < 0.7).scatter(1, labels[:, None], True) if masked else None
    labels[3:5] = -100

    def value_and_gradients():
        student.grad = teacher.grad = None
        value = loss(student.requires_grad_(), teacher.requires_grad_(teacher_learns), labels, mask)
        (3 * value).backward()
        return value.detach(), student.grad, teacher.grad

    whole = value_and_gradients()
    small_chunks()
    torch.testing.assert_close(value_and_gradients(), whole)


def test_without_gradient(small_chunks):
    student, teacher = torch.randn(2, 10, 40).unbind()
    whole = soft_target_loss(student, teacher)
    small_chunks()
    torch.testing.assert_close(soft_target_loss(student, teacher), whole)
    with torch.no_grad():
        torch.testing.assert_close(soft_target_loss(student.requires_grad_(), teacher), whole)


def test_gradient_has_the_dtype_of_the_logits(small_chunks):
    small_chunks()
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


def test_small_float16_gradients_do_not_underflow_before_scaling(small_chunks):
    small_chunks()
    student, teacher = torch.randn(2, 64, 1000, generator=torch.Generator().manual_seed(0)).half().mul(0.1).unbind()
    gradients = []
    for logits in (student, student.float()):
        logits = logits.clone().requires_grad_()
        (65536 * soft_target_loss(logits, teacher)).backward()
        gradients.append(logits.grad.float())
    torch.testing.assert_close(*gradients, rtol=2e-3, atol=1e-5)


def test_second_backward_raises(small_chunks):
    small_chunks()
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
