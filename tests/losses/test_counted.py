"""What the mean of a loss is over, by which devices are weighted."""

import pytest
import torch

from lightning_kd import losses
from lightning_kd.outputs import Head, Outputs

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
        assert loss.num_elements(outputs(token_mask=None)) == 4  # rows stand for tokens where nothing pads


def test_rows_without_a_class_do_not_count():
    assert losses.SoftTargetLoss().num_elements(outputs(MASK)) == 3


def test_heads_count_together():
    two = {name: Head(torch.zeros(4, 2), LABELS) for name in ("start", "end")}
    assert losses.SoftTargetLoss().num_elements(Outputs(two)) == 8
    assert losses.HardLabelLoss().num_elements(Outputs(two)) == 4
