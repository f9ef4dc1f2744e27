"""Clipping with a fused optimizer in bf16, for which Lightning raises (2.6)."""

import copy
from functools import partial

import pytest
import torch

from tests.helpers import data, module, tiny_bert, trainer


def step(folder, clinc_file, fused=True, **settings):
    """Return the change of all weights, in one vector, in a step at a learning rate of 1."""
    student = tiny_bert()
    before = copy.deepcopy(student)
    fitted = module(student=student, optimizer=partial(torch.optim.SGD, lr=1.0, fused=fused), lr_scheduler=None)
    trainer(folder, max_steps=1, precision="bf16-mixed", **settings).fit(fitted, data(clinc_file))
    pairs = zip(student.parameters(), before.parameters(), strict=True)
    return torch.cat([(after - start).detach().flatten() for after, start in pairs])


@pytest.mark.parametrize("fused", [False, True])
def test_norm_of_a_step(tmp_path, clinc_file, fused):
    assert step(tmp_path, clinc_file, fused).norm() > 0.02
    clipped = step(tmp_path, clinc_file, fused, gradient_clip_val=0.01)
    assert clipped.norm() == pytest.approx(0.01, rel=0.01)


def test_value_of_a_step(tmp_path, clinc_file):
    clipped = step(tmp_path, clinc_file, gradient_clip_val=1e-3, gradient_clip_algorithm="value")
    assert clipped.abs().max() == pytest.approx(1e-3, rel=0.01)
