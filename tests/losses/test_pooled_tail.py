import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from lightning_kd.losses import SoftTargetLoss, soft_target_loss
from lightning_kd.outputs import Head, Outputs
from lightning_kd.teachers.logit_codec import LogitCodec
from tests.losses.numeric import numeric_gradient, random_logits


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def merge_tail(student, teacher, temperature, top_k):
    """Probabilities added up, row by row."""
    q, p = softmax(student / temperature, axis=1), softmax(teacher / temperature, axis=1)
    top = np.argsort(-teacher, axis=1)[:, :top_k]
    rows = []
    for own, theirs, kept in zip(q, p, top, strict=True):
        rest = np.setdiff1d(np.arange(len(own)), kept)
        rows.append([[*z[kept], z[rest].sum()] for z in (own, theirs)])
    return np.array(rows).transpose(1, 0, 2)


def reference(student, teacher, temperature, top_k):
    q, p = merge_tail(student, teacher, temperature, top_k)
    return entropy(p, q, axis=1).mean() * temperature**2


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_the_divergence_of_summed_probabilities(top_k, temperature):
    student, teacher = random_logits()
    value = soft_target_loss(*tensors(student, teacher), temperature, top_k=top_k)
    assert value.item() == pytest.approx(reference(student, teacher, temperature, top_k), rel=1e-4)


def test_reverse_kl():
    student, teacher = random_logits()
    q, p = merge_tail(student, teacher, 2.0, 2)
    value = soft_target_loss(*tensors(student, teacher), 2.0, 1.0, top_k=2)
    assert value.item() == pytest.approx(entropy(q, p, axis=1).mean() * 4, rel=1e-5)


@pytest.mark.parametrize("top_k", [5, 6, 1000])
def test_all_classes_is_the_plain_kl(top_k):
    student, teacher = tensors(*random_logits())
    assert soft_target_loss(student, teacher, 2.0, top_k=top_k) == soft_target_loss(student, teacher, 2.0)


def test_all_but_one_is_the_plain_kl_too():
    student, teacher = tensors(*random_logits())
    torch.testing.assert_close(
        soft_target_loss(student, teacher, 2.0, top_k=4), soft_target_loss(student, teacher, 2.0)
    )


def test_pooling_more_never_tells_more():
    student, teacher = tensors(*random_logits(rows=50, classes=20))
    values = [soft_target_loss(student, teacher, 2.0, top_k=k).item() for k in range(1, 20)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_gradient():
    student, teacher = random_logits()
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    soft_target_loss(own, theirs, 2.0, top_k=2).backward()
    expected = numeric_gradient(lambda z: reference(z, teacher, 2.0, 2), student)
    np.testing.assert_allclose(own.grad, expected, rtol=1e-4, atol=1e-5)


def test_tail_that_underflows():
    # log-space: the rest has a probability of 1e-130
    student = torch.tensor([[300.0, 0.0, 1.0], [0.0, 1.0, 300.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, 0.0, 1.0], [300.0, 1.0, 0.0]])
    value = soft_target_loss(student, teacher, top_k=1)
    value.backward()
    assert value.item() == pytest.approx((0 + 300) / 2, rel=1e-5)
    assert student.grad.isfinite().all()


def test_large_vocabulary_goes_in_chunks():
    student, teacher = random_logits(rows=70, classes=9000)
    own, theirs = tensors(student, teacher)
    own.requires_grad_()
    value = soft_target_loss(own, theirs, 2.0, top_k=8)
    value.backward()
    assert value.item() == pytest.approx(reference(student, teacher, 2.0, 8), rel=1e-4)
    few = torch.tensor(student[:3], dtype=torch.float32, requires_grad=True)
    soft_target_loss(few, theirs[:3], 2.0, top_k=8).backward()
    torch.testing.assert_close(own.grad[:3], few.grad * 3 / 70)


def test_row_with_fewer_classes_than_k():
    mask = torch.tensor([[True, False, True, False, False], [True, True, True, True, True]])
    student, teacher = tensors(*random_logits(rows=2))
    value = soft_target_loss(student, teacher, 2.0, 0.0, mask, top_k=3)
    first = soft_target_loss(student[:1, [0, 2]], teacher[:1, [0, 2]], 2.0)
    second = soft_target_loss(student[1:], teacher[1:], 2.0, top_k=3)
    torch.testing.assert_close(value, (first + second) / 2)


def test_a_teacher_cache_of_as_many_logits_loses_nothing():
    student, teacher = random_logits()
    codec = LogitCodec(top_k=2)
    row = np.frombuffer(codec.encode(teacher[None].astype(np.float32)), dtype=np.uint8)
    cached = torch.tensor(codec.decode(row[None], 1, *teacher.shape)[0, 0])
    (own,) = tensors(student)
    value = soft_target_loss(own, cached, 1.0, top_k=2).item()
    assert value == pytest.approx(reference(student, teacher, 1.0, 2), rel=1e-4)


def test_module_passes_it_on():
    student, teacher = tensors(*random_logits())
    actual = SoftTargetLoss(temperature=2.0, top_k=2)(
        Outputs({"label": Head(student)}), Outputs({"label": Head(teacher)})
    )
    assert actual == soft_target_loss(student, teacher, 2.0, top_k=2)


@pytest.mark.parametrize("top_k", [0, -1])
def test_k_out_of_range_is_refused(top_k):
    with pytest.raises(ValueError, match=f"SoftTargetLoss: top_k must be >= 1, got {top_k}"):
        SoftTargetLoss(top_k=top_k)
