"""A run is continued with the same losses and layers, or not at all."""

import pytest
import torch
from torch import nn

from lightning_kd.losses import HiddenStateCosineLoss, HiddenStateMSELoss, SoftTargetLoss
from tests.callbacks.distillation.dropin import CLASSES, FEATURES, Classifier, callback, fit, mlp


def deep(width, seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    return nn.Sequential(*layers)


class Deep(Classifier):
    def __init__(self):
        super().__init__()
        self.net = deep(8)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def compare_layers(names=("a",), layers=("0",), width=32, **others):
    losses = {name: HiddenStateMSELoss(0.5) for name in names} | others
    return callback(teacher=deep(width, 9), losses=losses, layers={layer: layer for layer in layers})


SOFT = {"soft": SoftTargetLoss()}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            compare_layers("ab"),
            compare_layers("ba"),
            "a run with a: HiddenStateMSELoss; b: .* this one has b: HiddenStateMSELoss; a",
        ),
        (
            compare_layers(),
            compare_layers(layers="2"),
            r"0 \(8 wide\) with 0 \(32 wide\), and this one has .* 2 \(8 wide\) with 2",
        ),
        (
            compare_layers(layers="02"),
            compare_layers(layers="20"),
            r"this one has a: HiddenStateMSELoss; 2 .*; 0 .*; resume with",
        ),
        (compare_layers(), compare_layers(width=16), r"with 0 \(32 wide\), and this one has .* with 0 \(16 wide\)"),
        (
            compare_layers(width=8),
            compare_layers((), a=HiddenStateCosineLoss(), width=8),
            "this one has a: HiddenStateCosineLoss",
        ),
        (
            compare_layers(**SOFT),
            callback(teacher=deep(32, 9), losses=SOFT),
            "this one has soft: SoftTargetLoss; resume",
        ),
        (
            callback(teacher=deep(32, 9), losses=SOFT),
            compare_layers(**SOFT),
            "a run with soft: SoftTargetLoss, and this one",
        ),
        (None, compare_layers(), "have projections, and the checkpoint is of a run without them"),
    ],
)
def test_other_losses_layers_or_widths_are_refused(tmp_path, before, after, message):
    fit(Deep(), tmp_path, before).save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(ValueError, match=message) as info:
        fit(Deep(), tmp_path, after, ckpt_path=tmp_path / "first.ckpt", max_epochs=2)
    assert "\n" not in str(info.value)


def test_losses_without_parameters_may_join_a_run_without_the_callback(tmp_path):
    fit(Classifier(), tmp_path).save_checkpoint(tmp_path / "first.ckpt")
    run = fit(Classifier(), tmp_path, callback(teacher=mlp(16)), ckpt_path=tmp_path / "first.ckpt", max_epochs=2)
    assert run.global_step == 4
    assert "distillation/soft" in run.logged_metrics
