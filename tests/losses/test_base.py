"""The modules of the losses: arguments, their functions, and the number of averaged elements."""

import math

import pytest
import torch

from lightning_kd import losses
from lightning_kd.losses import (
    ConsistencyLoss,
    DecoupledKDLoss,
    DistillationLoss,
    DISTLoss,
    HardLabelLoss,
    LogitMSELoss,
    SelfAttentionRelationLoss,
    SoftTargetLoss,
)
from lightning_kd.outputs import Head, Outputs
from tests.losses.conftest import UNMASKED
from tests.losses.numeric import random_logits, tensors

INVALID = [
    (HardLabelLoss, "weight", (-1.0, -1e-9, math.nan, math.inf, -math.inf)),
    (HardLabelLoss, "label_smoothing", (-0.1, 1.0, math.nan)),
    (HardLabelLoss, "tsa_threshold", (-0.1, 1.5, math.nan)),
    (SoftTargetLoss, "temperature", (0, -1, 1001, math.nan, math.inf)),
    (SoftTargetLoss, "beta", (-0.1, 1.1, math.nan)),
    (SoftTargetLoss, "top_k", (0, -1)),
    (LogitMSELoss, "weight", (-1.0,)),
    (ConsistencyLoss, "confidence", (-0.1, 1.0, math.nan)),
    (ConsistencyLoss, "temperature", (0.0,)),
    (DecoupledKDLoss, "temperature", (0,)),
    (DecoupledKDLoss, "target_weight", (-1, math.nan, math.inf)),
    (DecoupledKDLoss, "nontarget_weight", (-1, math.nan, math.inf)),
    (DISTLoss, "temperature", (0,)),
    (DISTLoss, "inter_weight", (-1, math.nan, math.inf)),
    (DISTLoss, "intra_weight", (-1, math.nan, math.inf)),
    (SelfAttentionRelationLoss, "num_relation_heads", (0,)),
]


@pytest.mark.parametrize(
    ("loss", "argument", "value"), [(loss, argument, value) for loss, argument, values in INVALID for value in values]
)
def test_argument_out_of_range_raises(loss, argument, value):
    with pytest.raises(ValueError, match=rf"^{loss.__name__}: {argument} must be .*got {value}"):
        loss(**{argument: value})


def test_loss_without_forward_raises():
    class Unfinished(DistillationLoss):
        pass

    with pytest.raises(TypeError, match=r"Unfinished does not define forward\(student, teacher\)"):
        Unfinished()(Outputs({}), None)


MODULES = {
    "correlation": DISTLoss(0.0, 2.0, 1.0, 0.0),
    "correlation, intra": DISTLoss(0.0, 2.0, 1.0, 0.5),
    "decoupled": DecoupledKDLoss(0.0, 2.0, 1.0, 3.0),
    "hard, smoothed": HardLabelLoss(0.0, 0.1),
    "mse": LogitMSELoss(0.0),
    "soft, between": SoftTargetLoss(0.0, 2.0, 0.1),
    "soft, top 2, standardized, between": SoftTargetLoss(0.0, 2.0, 0.5, standardize=True, top_k=2),
}


@pytest.mark.parametrize("name", MODULES)
def test_mean_of_the_function_over_heads_whatever_the_weight(name):
    loss, function = MODULES[name], UNMASKED[name]
    student, teacher = tensors(*random_logits())
    labels, mask = torch.tensor([0, 4, 2, 2, 1, 3]), torch.ones(6, 5, dtype=torch.bool)
    mask[0, 1:3] = mask[1, 0] = False
    mask = None if name == "correlation, intra" else mask
    actual = loss(
        Outputs({"start": Head(student, labels, mask), "end": Head(student.flip(0), labels.flip(0))}),
        Outputs({"end": Head(teacher), "start": Head(teacher)}) if loss.requires_teacher else None,
    )
    start, end = function(student, teacher, labels, mask), function(student.flip(0), teacher, labels.flip(0), None)
    torch.testing.assert_close(actual, (start + end) / 2)
    assert actual > 0
    assert not list(loss.parameters())


# ---- number of averaged elements, which weights losses across devices

LABELS = torch.tensor([1, -100, 0, -100])
TOKEN_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
MASK = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 1]]).bool()


def outputs(mask=None, token_mask=TOKEN_MASK, heads=("label",)):
    return Outputs({name: Head(torch.zeros(4, 2), LABELS, mask) for name in heads}, token_mask)


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
    else:
        assert loss.num_elements(outputs(heads=("start", "end"))) == 2 * expected


def test_num_elements_without_masked_targets():
    assert SoftTargetLoss().num_elements(outputs(MASK)) == 3
