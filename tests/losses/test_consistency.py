"""Consistency with another wording, and labels left out of which the student is sure: against SciPy, row by row."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch.nn.functional import cross_entropy

from lightning_kd.losses import ConsistencyLoss, HardLabelLoss, consistency_loss
from lightning_kd.outputs import Head, Outputs
from lightning_kd.training.loss_schedules import Schedule

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, AUGMENTED_LOGITS = (torch.randn(12, 5, generator=GENERATOR) * 2 for _ in range(2))
LABELS = torch.where(torch.arange(12) % 2 == 0, torch.tensor([0, 2, 4, 1] * 3), -100)
LABELS[[0, 4]] = LOGITS.argmax(dim=-1)[[0, 4]]  # of these the student is sure


def reference(logits, augmented, temperature, confidence):
    """Mean over all rows, of which those count 0 that the student is not sure of."""
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


def test_gradient_reaches_the_augmented_logits_only_and_is_the_difference_of_the_probabilities():
    logits, augmented = LOGITS.clone().requires_grad_(), AUGMENTED_LOGITS.clone().requires_grad_()
    consistency_loss(logits, augmented, 0.4, 0.6).backward()
    sure = LOGITS.softmax(-1).amax(-1, keepdim=True) > 0.6
    expected = torch.where(sure, AUGMENTED_LOGITS.softmax(-1) - (LOGITS / 0.4).softmax(-1), 0.0) / len(LOGITS)
    torch.testing.assert_close(augmented.grad, expected)
    assert logits.grad is None


def test_nobody_sure_and_no_row():
    for logits, augmented in ((torch.zeros(3, 4), torch.ones(3, 4)), (torch.zeros(0, 4), torch.zeros(0, 4))):
        augmented.requires_grad_()
        loss = consistency_loss(logits, augmented)
        loss.backward()
        assert float(loss.detach()) == 0
        assert not augmented.grad.any()


def test_bf16_is_worked_out_in_float32():
    half = consistency_loss(LOGITS.bfloat16(), AUGMENTED_LOGITS.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, consistency_loss(LOGITS.bfloat16().float(), AUGMENTED_LOGITS.bfloat16().float()))


def outputs(labels):
    return Outputs({"label": Head(LOGITS, labels)}, augmented=Outputs({"label": Head(AUGMENTED_LOGITS, labels)}))


def test_rows_without_a_label_count_unless_all_are_to():
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 1.0}, r"ConsistencyLoss: confidence must be in \[0, 1\), got 1.0"),
        ({"confidence": float("nan")}, "confidence must be"),
        ({"temperature": 0.0}, "ConsistencyLoss: temperature must be > 0, got 0.0"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyLoss(**arguments)


# ---- training signal annealing


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7])
def test_labels_of_which_the_student_is_sure_are_left_out(alpha):
    loss = HardLabelLoss(tsa_threshold=alpha)
    most = alpha * (1 - 1 / 5) + 1 / 5
    p = softmax(LOGITS.double().numpy(), axis=1)
    rows = [-np.log(p[i, y]) for i, y in enumerate(LABELS.tolist()) if y >= 0 and p[i, y] <= most]
    assert 0 < len(rows) < 6
    assert float(loss(outputs(LABELS))) == pytest.approx(np.mean(rows), rel=1e-5)
    assert int(loss.num_elements(outputs(LABELS))) == len(rows)


def test_all_labels_count_at_the_end_and_in_validation():
    whole = cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(HardLabelLoss(tsa_threshold=1.0)(outputs(LABELS)), whole)
    torch.testing.assert_close(HardLabelLoss(tsa_threshold=0.0).eval()(outputs(LABELS)), whole)


@pytest.mark.parametrize(
    ("schedule", "paper"),
    [
        (Schedule(0, 1), lambda t: t),
        (Schedule(0, 1, shape="saturating"), lambda t: (1 - np.exp(-5 * t)) / (1 - np.exp(-5))),
        (Schedule(np.exp(-5), 1, shape="exponential"), lambda t: np.exp(5 * (t - 1))),
    ],
)
def test_the_papers_schedules(schedule, paper):
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        assert schedule.at(t) == pytest.approx(paper(t), abs=1e-12)


def test_signal_out_of_range():
    with pytest.raises(ValueError, match=r"HardLabelLoss: tsa_threshold must be in \[0, 1\], got 1.5"):
        HardLabelLoss(tsa_threshold=1.5)
