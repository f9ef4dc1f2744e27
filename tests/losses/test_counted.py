"""What the mean of a loss is over, by which devices are weighted."""

import pytest
import torch

from lightning_kd import losses
from lightning_kd.outputs import Head, Outputs

LABELS = torch.tensor([1, -100, 0, -100])
TOKENS = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
MASK = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 1]]).bool()


def outputs(mask=None, tokens=TOKENS):
    return Outputs({"label": Head(torch.zeros(4, 2), LABELS, mask)}, tokens)


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
        ("RelationLoss", 6),
        ("AttentionTransferLoss", 9 + 4 + 1),
    ],
)
def test_counted(name, expected):
    loss = getattr(losses, name)()
    assert loss.counted(outputs()) == expected
    if loss.needs:
        assert loss.counted(outputs(tokens=None)) == 4  # rows stand for tokens where nothing pads


def test_rows_without_a_class_do_not_count():
    assert losses.SoftTargetLoss().counted(outputs(MASK)) == 3


def test_heads_count_together():
    two = {name: Head(torch.zeros(4, 2), LABELS) for name in ("start", "end")}
    assert losses.SoftTargetLoss().counted(Outputs(two)) == 8
    assert losses.HardLabelLoss().counted(Outputs(two)) == 4
