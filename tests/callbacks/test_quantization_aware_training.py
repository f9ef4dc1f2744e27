"""Training with int8 rounding, export in float32."""

from functools import partial

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lightning_kd import ONNXExport
from lightning_kd.callbacks import QuantizationAwareTraining, StudentExport
from lightning_kd.export.onnx import ONNXModel
from tests.helpers import assert_resumable, data, fit_and_resume, module

TEXT = {"input_ids": torch.tensor([[2, 8, 9, 10, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def callbacks():
    return [QuantizationAwareTraining()]


@pytest.fixture
def make(clinc_file, teacher_folder):
    """Functions that make the module and its data."""
    return partial(module, teacher_folder), partial(data, clinc_file)


def test_forward_pass_is_that_of_int8_weights(tmp_path, make):
    """Compared with an independent rounding of one layer: weights per channel, activations per token."""
    student = fit_and_resume(tmp_path, *make, make_callbacks=callbacks).student.eval()
    linear = student.bert.encoder.layer[0].attention.self.query
    x = torch.randn(20, 4, 16)
    weight = linear.weight.detach()
    scale = weight.abs().amax(1, keepdim=True) / 127.5
    rounded = (weight / scale).round().clamp(-128, 127) * scale
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / 255
    zero = (-128 - low / step).round().clamp(-128, 127)
    coarse = ((x / step).round() + zero).clamp(-128, 127).sub(zero) * step
    with torch.no_grad():
        actual = linear(x)
    # a number half-way between two may be rounded either way
    error = (actual - (coarse @ rounded.T + linear.bias)).abs().mean()
    assert error < 0.2 * (actual - (x @ weight.T + linear.bias)).abs().mean()


def test_exports_are_unquantized_or_int8(tmp_path, make):
    def with_exports():
        return [*callbacks(), StudentExport(), ONNXExport()]

    fitted = fit_and_resume(tmp_path, *make, make_callbacks=with_exports, max_epochs=3)
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert all(torch.equal(w, fitted.student.state_dict()[n]) for n, w in exported.state_dict().items())
    with torch.no_grad():
        whole, rounded = exported(**TEXT).logits, fitted.student.eval()(**TEXT).logits
        int8 = ONNXModel(tmp_path / "onnx-int8")(token_type_ids=torch.zeros_like(TEXT["input_ids"]), **TEXT).logits
    assert not torch.equal(whole, rounded)
    torch.testing.assert_close(whole, rounded, rtol=0.1, atol=0.1)
    torch.testing.assert_close(int8, rounded, rtol=0.1, atol=0.1)


def test_resumed_run_ends_in_the_same_weights(tmp_path, make):
    assert_resumable(tmp_path, *make, [14], make_callbacks=callbacks, max_epochs=3)
