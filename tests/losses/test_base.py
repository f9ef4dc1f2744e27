"""The base class of the losses."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from lightning_kd import losses
from lightning_kd.losses import DistillationLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.losses.base import drop_masked_targets, masked_log_softmax, mean_of_losses, mean_or_zero
from lightning_kd.outputs import Head, Outputs

LOSSES = [HardLabelLoss, LogitMSELoss, SoftTargetLoss]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [-1.0, -1e-9, math.nan, math.inf, -math.inf])
def test_weight_out_of_range_raises(loss, weight):
    with pytest.raises(ValueError, match=rf"{loss.__name__}: weight .* {weight}"):
        loss(weight=weight)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [0, 1, 0.0552, 1e6])
def test_weight_is_kept_as_given(loss, weight):
    assert loss(weight).weight == weight


@pytest.mark.parametrize("loss", LOSSES)
def test_forward_is_not_multiplied_by_weight(loss):
    student = Outputs({"label": Head(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), torch.tensor([0, 0]))})
    teacher = Outputs({"label": Head(torch.tensor([[0.5, 0.0], [3.0, 2.0]]))})
    assert loss(weight=1.0)(student, teacher) == loss(weight=7.0)(student, teacher) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_have_no_parameters(loss):
    assert not list(loss().parameters())


def test_hard_label_loss_requires_no_teacher():
    assert [loss.requires_teacher for loss in LOSSES] == [False, True, True]


def test_loss_without_forward_raises():
    class Unfinished(DistillationLoss):
        pass

    with pytest.raises(TypeError, match=r"Unfinished does not define forward\(student, teacher\)"):
        Unfinished()(Outputs({}), None)


def test_mean_or_zero():
    assert mean_or_zero(torch.tensor([1.0, 2.0, 6.0])) == 3


def test_mean_of_no_values_is_zero_with_gradient():
    values = torch.zeros(0, requires_grad=True)
    mean = mean_or_zero(values)
    mean.backward()
    assert mean == 0
    assert values.grad.shape == (0,)


def test_mean_of_losses():
    assert mean_of_losses([torch.tensor(1.0), torch.tensor(4.0)]) == 2.5


def test_targets_with_an_included_class_are_kept():
    mask = torch.tensor([[True, True], [False, False], [False, True]])
    rows = torch.arange(3)
    kept_mask, kept_rows = drop_masked_targets(mask, rows)
    assert kept_mask.tolist() == [[True, True], [False, True]]
    assert kept_rows.tolist() == [0, 2]


def test_log_softmax_without_mask():
    logits = np.random.default_rng(0).normal(size=(4, 6)) * 5
    actual = masked_log_softmax(torch.tensor(logits, dtype=torch.float32), None)
    np.testing.assert_allclose(actual, log_softmax(logits, axis=-1), rtol=1e-6, atol=1e-6)


def test_log_softmax_of_masked_classes():
    mask = torch.tensor([[True, False, True]])
    actual = masked_log_softmax(torch.tensor([[1.0, 99.0, 2.0]]), mask)
    np.testing.assert_allclose(actual[mask], log_softmax([1.0, 2.0]), rtol=1e-6)
    assert actual[0, 1] == -math.inf


# ---- number of averaged elements, which weights losses across devices

LABELS = torch.tensor([1, -100, 0, -100])
TOKEN_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
MASK = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 1]]).bool()


def outputs(mask=None, token_mask=TOKEN_MASK):
    return Outputs({"label": Head(torch.zeros(4, 2), LABELS, mask)}, token_mask)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HardLabelLoss", 2),
        ("SoftTargetLoss", 4),
        ("LogitMSELoss", 4),
        ("DISTLoss", 4),
        ("DecoupledKDLoss", 2),
        ("HiddenStateMSELoss", 6),
        ("HiddenStateCosineLoss", 6),
        ("SelfAttentionRelationLoss", 6),
        ("AttentionScoreLoss", 9 + 4 + 1),
    ],
)
def test_num_elements(name, expected):
    loss = getattr(losses, name)()
    assert loss.num_elements(outputs()) == expected
    if loss.requires:
        assert loss.num_elements(outputs(token_mask=None)) == 4  # without a mask, targets


def test_num_elements_without_masked_targets():
    assert losses.SoftTargetLoss().num_elements(outputs(MASK)) == 3


def test_num_elements_of_several_heads():
    two = {name: Head(torch.zeros(4, 2), LABELS) for name in ("start", "end")}
    assert losses.SoftTargetLoss().num_elements(Outputs(two)) == 8
    assert losses.HardLabelLoss().num_elements(Outputs(two)) == 4
