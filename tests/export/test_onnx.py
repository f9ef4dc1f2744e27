"""ONNX graphs: the same answers as PyTorch for any shape, with the families and tasks we have."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from lightning_kd.export import onnx
from lightning_kd.export.onnx import FILE, OnnxNetwork, quantize, to_onnx
from lightning_kd.models.loading import forward
from tests.conftest import tiny_bert

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
SHAPE = {"vocab_size": 100, "max_position_embeddings": 66}
FAMILIES = {
    "bert": (AutoModelForSequenceClassification, tiny_bert(vocab_size=100).config),
    "roberta": (AutoModelForSequenceClassification, RobertaConfig(**SIZES, **SHAPE, type_vocab_size=1, pad_token_id=1)),
    "distilbert": (
        AutoModelForQuestionAnswering,
        DistilBertConfig(**SHAPE, dim=16, n_heads=2, hidden_dim=32, n_layers=2),
    ),
    "electra": (AutoModelForQuestionAnswering, ElectraConfig(**SIZES, **SHAPE, embedding_size=16)),
    "mpnet": (AutoModelForMaskedLM, MPNetConfig(**SIZES, **SHAPE)),
}


def rows(count, length, padded=0):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(count, length, dtype=torch.long)
    mask[0, length - padded :] = 0
    # a tokenizer's order, which is not that of the networks
    return {
        "input_ids": torch.randint(5, 100, (count, length), generator=generator),
        "token_type_ids": torch.arange(length).ge(length // 2).long().repeat(count, 1) * mask,
        "attention_mask": mask,
        "row_id": torch.arange(count),
        "labels": torch.zeros(count, dtype=torch.long),
    }


def network(family):
    auto, config = FAMILIES[family]
    torch.manual_seed(0)
    return auto.from_config(config).eval()


def assert_same(ours, theirs, **tolerance):
    for name in [n for n in ("logits", "start_logits", "end_logits") if n in ours]:
        torch.testing.assert_close(getattr(theirs, name), ours[name], **tolerance)


def write(folder, network):
    network.config.save_pretrained(folder)
    to_onnx(network, rows(2, 5)).save(str(folder / FILE))
    return OnnxNetwork(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_logits_for_other_shapes(tmp_path, family):
    original = network(family)
    exported = write(tmp_path, original)
    for batch in (rows(1, 1), rows(1, 9), rows(3, 4, padded=2), rows(7, 31, padded=12)):
        with torch.no_grad():
            assert_same(forward(original, batch), forward(exported, batch), rtol=1e-4, atol=1e-5)


def test_attention_of_the_network_stays_as_it_was():
    original = network("bert")
    original.set_attn_implementation("sdpa")
    to_onnx(original, rows(2, 5))
    assert original.config._attn_implementation == "sdpa"


def test_int8_is_smaller_and_close(tmp_path):
    original = tiny_bert(vocab_size=5000).eval()
    write(tmp_path, original)
    (tmp_path / "int8").mkdir()
    original.config.save_pretrained(tmp_path / "int8")
    quantize(tmp_path / FILE, tmp_path / "int8" / FILE)
    sizes = [(folder / FILE).stat().st_size for folder in (tmp_path, tmp_path / "int8")]
    assert sizes[1] < 0.7 * sizes[0]  # a quarter where rows are longer than 16 numbers
    batch = rows(4, 12, padded=3)
    with torch.no_grad():
        exact, rounded = forward(original, batch).logits, forward(OnnxNetwork(tmp_path / "int8"), batch).logits
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_row_longer_than_the_positions_is_refused(tmp_path):
    exported = write(tmp_path, network("bert"))
    with pytest.raises(ValueError, match="rows of 65 tokens are longer than the network's 64 positions; cut them"):
        forward(exported, rows(1, 65))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(
        ValueError, match=r"ONNX needs onnxruntime, not installed; run pip install 'lightning-kd\[onnx\]'"
    ):
        onnx.check_installed()


@torch.library.custom_op("lightning_kd_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


def test_operator_without_a_counterpart_is_named():
    odd = network("bert")
    odd.classifier.register_forward_hook(lambda module, args, output: twice(output))
    with pytest.raises(
        ValueError,
        match=r"BertForSequenceClassification cannot be exported: the operator lightning_kd_tests\.twice.* has no ONNX",
    ):
        to_onnx(odd, rows(2, 5))
