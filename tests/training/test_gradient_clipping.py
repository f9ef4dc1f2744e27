"""Clipping with a fused optimizer in bf16, for which Lightning raises (2.6)."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback

from tests.helpers import data, module, trainer


def fit(folder, clinc_file, fused, **settings):
    optimizer = partial(torch.optim.SGD, lr=1.0, fused=fused)
    fitted = module(optimizer=optimizer, lr_scheduler=None)
    before = None

    class Start(Callback):
        def on_train_start(self, trainer, pl_module):
            nonlocal before
            before = [p.detach().clone() for p in pl_module.parameters()]

    trainer(folder, callbacks=[Start()], max_steps=1, **settings).fit(fitted, data(clinc_file))
    return [after.detach() - start for after, start in zip(fitted.parameters(), before, strict=True)]


@pytest.mark.parametrize("fused", [False, True])
def test_norm_of_a_step(tmp_path, clinc_file, fused):
    free = fit(tmp_path, clinc_file, fused, precision="bf16-mixed")
    clipped = fit(tmp_path, clinc_file, fused, precision="bf16-mixed", gradient_clip_val=0.01)
    norms = [float(torch.stack([d.norm() for d in step]).norm()) for step in (free, clipped)]
    assert norms[0] > 0.02
    assert norms[1] == pytest.approx(0.01, rel=0.01)


def test_value_of_a_step(tmp_path, clinc_file):
    step = fit(
        tmp_path, clinc_file, True, precision="bf16-mixed", gradient_clip_val=1e-3, gradient_clip_algorithm="value"
    )
    assert max(float(difference.abs().max()) for difference in step) == pytest.approx(1e-3, rel=0.01)
