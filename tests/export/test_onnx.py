"""ONNX graphs match PyTorch for any shape, model family and task."""

import pytest
import torch

from lightning_kd.export import onnx, requirements
from lightning_kd.export.onnx import ONNX_WEIGHTS_NAME, ONNXModel, quantize, to_onnx
from lightning_kd.models import call_model
from tests.export.families import MODEL_CLASSES, assert_same, build_model, make_batch
from tests.helpers import tiny_bert


def export_and_load(folder, model):
    model.config.save_pretrained(folder)
    to_onnx(model, make_batch(2, 5)).save(str(folder / ONNX_WEIGHTS_NAME))
    return ONNXModel(folder)


@pytest.mark.parametrize("family", MODEL_CLASSES)
def test_same_logits_for_other_shapes(tmp_path, family):
    original = build_model(family)
    attn_implementation = original.config._attn_implementation
    exported = export_and_load(tmp_path, original)
    assert original.config._attn_implementation == attn_implementation
    for batch in (make_batch(1, 1), make_batch(1, 9), make_batch(3, 4, padded=2), make_batch(7, 31, padded=12)):
        with torch.no_grad():
            assert_same(call_model(original, batch), call_model(exported, batch))
    with pytest.raises(ValueError, match="input_ids: 65 tokens exceed the graph's 6"):
        call_model(exported, make_batch(1, 65))


def test_int8_is_smaller_and_close(tmp_path):
    original = tiny_bert(vocab_size=5000).eval()
    export_and_load(tmp_path, original)
    (tmp_path / "int8").mkdir()
    original.config.save_pretrained(tmp_path / "int8")
    quantize(tmp_path / ONNX_WEIGHTS_NAME, tmp_path / "int8" / ONNX_WEIGHTS_NAME)
    sizes = [(folder / ONNX_WEIGHTS_NAME).stat().st_size for folder in (tmp_path, tmp_path / "int8")]
    assert sizes[1] < 0.7 * sizes[0]  # a quarter where rows are longer than 16 numbers
    batch = make_batch(4, 12, padded=3)
    with torch.no_grad():
        exact, rounded = call_model(original, batch).logits, call_model(ONNXModel(tmp_path / "int8"), batch).logits
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ValueError, match=r"ONNX: onnxruntime not installed; .*lightning-kd\[onnx\]"):
        onnx.check_installed()


@torch.library.custom_op("lightning_kd_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


def test_unsupported_operator_raises():
    broken_model = build_model("bert")
    broken_model.classifier.register_forward_hook(lambda module, args, output: twice(output))
    with pytest.raises(
        ValueError, match=r"BertForSequenceClassification cannot be exported: .*lightning_kd_tests\.twice"
    ):
        to_onnx(broken_model, make_batch(2, 5))
