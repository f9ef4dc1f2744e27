"""Consistency under augmentation, against SciPy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from lightning_kd.losses import ConsistencyLoss, consistency_loss
from lightning_kd.outputs import Head, Outputs

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, AUGMENTED_LOGITS = (torch.randn(12, 5, generator=GENERATOR) * 2 for _ in range(2))
LABELS = torch.where(torch.arange(12) % 2 == 0, torch.tensor([0, 2, 4, 1] * 3), -100)


def reference(logits, augmented, temperature, confidence):
    """Return the mean over all targets, 0 for those below the confidence."""
    logits, augmented = logits.double().numpy(), augmented.double().numpy()
    rows = [
        entropy(softmax(z / temperature), softmax(t)) if softmax(z).max() > confidence else 0.0
        for z, t in zip(logits, augmented, strict=True)
    ]
    return np.mean(rows)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.8])
def test_against_scipy(temperature, confidence):
    expected = reference(LOGITS, AUGMENTED_LOGITS, temperature, confidence)
    assert 0 < sum(LOGITS.softmax(-1).amax(-1) > confidence) <= 12
    assert float(consistency_loss(LOGITS, AUGMENTED_LOGITS, temperature, confidence)) == pytest.approx(
        expected, rel=1e-5
    )


def test_gradient_closed_form_at_the_augmented_logits_only():
    logits, augmented = LOGITS.clone().requires_grad_(), AUGMENTED_LOGITS.clone().requires_grad_()
    consistency_loss(logits, augmented, 0.4, 0.6).backward()
    confident = LOGITS.softmax(-1).amax(-1, keepdim=True) > 0.6
    expected = torch.where(confident, AUGMENTED_LOGITS.softmax(-1) - (LOGITS / 0.4).softmax(-1), 0.0) / len(LOGITS)
    torch.testing.assert_close(augmented.grad, expected)
    assert logits.grad is None


def test_zero_without_confident_targets():
    for logits, augmented in ((torch.zeros(3, 4), torch.ones(3, 4)), (torch.zeros(0, 4), torch.zeros(0, 4))):
        augmented.requires_grad_()
        loss = consistency_loss(logits, augmented)
        loss.backward()
        assert float(loss.detach()) == 0
        assert not augmented.grad.any()


def test_bf16_is_computed_in_float32():
    half = consistency_loss(LOGITS.bfloat16(), AUGMENTED_LOGITS.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, consistency_loss(LOGITS.bfloat16().float(), AUGMENTED_LOGITS.bfloat16().float()))


def outputs(labels):
    return Outputs({"label": Head(LOGITS, labels)}, augmented=Outputs({"label": Head(AUGMENTED_LOGITS, labels)}))


def test_unlabeled_examples_unless_include_labeled():
    loss, unlabeled = ConsistencyLoss(confidence=0.5), LABELS == -100
    expected = reference(LOGITS[unlabeled], AUGMENTED_LOGITS[unlabeled], 0.4, 0.5)
    assert float(loss(outputs(LABELS))) == pytest.approx(expected, rel=1e-5)
    assert int(loss.num_elements(outputs(LABELS))) == 6
    every = ConsistencyLoss(confidence=0.5, include_labeled=True)
    for consistency, labels in ((every, LABELS), (loss, None)):
        assert float(consistency(outputs(labels))) == pytest.approx(
            reference(LOGITS, AUGMENTED_LOGITS, 0.4, 0.5), rel=1e-5
        )
        assert int(consistency.num_elements(outputs(labels))) == 12
