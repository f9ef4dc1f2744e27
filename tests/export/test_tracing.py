"""Traced graphs: the same answers as PyTorch for any number of rows, with the families and tasks we have."""

import json
import sys
from types import ModuleType

import pytest
import torch
from packaging.version import Version
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from lightning_kd.export import neuron
from lightning_kd.export.compilers import TorchScript
from lightning_kd.export.neuron import NeuronCC, NeuronXCC, compiler_for
from lightning_kd.export.tracing import TracedNetwork, Tracing, fix_tokenizer
from lightning_kd.models.loading import forward
from tests.conftest import TINY_BERT, save_network
from tests.export.test_onnx import FAMILIES, assert_same, network, rows
from tests.neuron_sdk import Sdk

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # compilers on their own warn

TASK = "text-classification"


@pytest.fixture
def sdk(monkeypatch):
    return Sdk(monkeypatch)


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A machine that can run what the stand-in compiles."""
    (tmp_path / "neuron0").touch()
    monkeypatch.setattr(neuron, "DEVICE", tmp_path / "neuron0")


def write(folder, network, compiler=None, batch_size=3, length=16):
    compiler = compiler or TorchScript()
    traced = Tracing(network, rows(2, 5), batch_size, length)
    traced.save(compiler, folder)
    network.config.neuron = traced.section(compiler, TASK, "none", "bf16")
    network.config.save_pretrained(folder)
    return TracedNetwork(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_logits_for_any_number_of_rows(tmp_path, family):
    original = network(family)
    traced = write(tmp_path, original)
    for batch in (rows(1, 1), rows(2, 9, padded=3), rows(3, 16), rows(7, 12, padded=8)):
        with torch.no_grad():
            assert_same(forward(original, batch), forward(traced, batch), rtol=1e-4, atol=1e-5)


def test_as_many_classes_as_tokens(tmp_path):
    original = network("bert")
    original.classifier = torch.nn.Linear(16, 16)
    traced = write(tmp_path, original)
    assert forward(traced, rows(4, 5)).logits.shape == (4, 16)


def test_attention_of_the_network_stays_as_it_was(tmp_path):
    original = network("bert")
    original.set_attn_implementation("sdpa")
    write(tmp_path, original)
    assert original.config._attn_implementation == "sdpa"


def test_examples_are_padded_even_where_no_row_is():
    full = rows(3, 16)
    examples = dict(zip(("ids", "mask", "types"), Tracing(network("bert"), full, 3, 16).examples, strict=True))
    assert examples["mask"].sum(1).tolist() == [15, 15, 15]
    assert full["attention_mask"].all()


def test_longer_rows_are_refused(tmp_path):
    traced = write(tmp_path, network("bert"))
    with pytest.raises(ValueError, match="rows of 17 tokens are longer than the 16 the graph was traced for; cut them"):
        forward(traced, rows(1, 17))


def test_missing_input_is_named(tmp_path):
    traced = write(tmp_path, network("bert"))
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with pytest.raises(ValueError, match="the graph needs attention_mask as well; give all of its inputs"):
        traced(**ids)
    ids["attention_mask"] = torch.ones(1, 4).long()
    without, zeros = traced(**ids), traced(**ids, token_type_ids=torch.zeros(1, 4).long())
    assert torch.equal(without.logits, zeros.logits)


def test_length_beyond_the_positions_is_refused():
    with pytest.raises(ValueError, match=r"sequence_length: 65 is more than the network's 64 positions; give 64"):
        Tracing(network("bert"), rows(2, 5), 1, 65)


def test_network_that_cannot_be_traced_is_named():
    def refuse(module, args, output):
        if torch.jit.is_tracing():
            raise RuntimeError("not with me\nand more")

    odd = network("bert")
    odd.classifier.register_forward_hook(refuse)
    with pytest.raises(ValueError, match="BertForSequenceClassification cannot be traced: not with me; change the"):
        Tracing(odd, rows(2, 5), 1, 8).support(TorchScript())


@pytest.mark.parametrize(
    ("compiler", "compiler_type"),
    [(NeuronXCC(["--target", "inf2"]), "neuronx-cc"), (NeuronCC(["--fast-math", "none"]), "neuron-cc")],
)
def test_folder_is_what_optimum_neuron_reads(tmp_path, sdk, device, compiler, compiler_type):
    original = network("bert")
    write(tmp_path, original, compiler)
    assert [file.name for file in tmp_path.glob("*.neuron")] == ["model.neuron"]
    section = json.loads((tmp_path / "config.json").read_text())["neuron"]
    # optimum/neuron/modeling_traced.py: _neuron_config_init and _from_pretrained
    shapes = {key.replace("static_", ""): value for key, value in section.items() if key.startswith("static_")}
    assert shapes == {"batch_size": 3, "sequence_length": 16}
    assert section["compiler_type"] == compiler_type
    assert Version(section["compiler_version"]) > Version("1")
    assert (section["model_type"], section["task"]) == ("bert", TASK)
    assert section["inline_weights_to_neff"] is True
    assert section["dynamic_batch_size"] is False
    assert (section["int_dtype"], section["float_dtype"]) == ("int64", "fp32")
    # optimum/neuron/modeling.py: NeuronModelForSequenceClassification gives them by position
    batch = rows(3, 16, padded=4)
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
    with torch.no_grad():
        expected = forward(original, batch).logits
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.neuron")(*inputs)[0], expected)
        torch.testing.assert_close(forward(TracedNetwork(tmp_path), batch).logits, expected)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        (("inf2",), ["--target", "inf2", "--auto-cast", "none"]),
        (("trn1", "matmult", "fp16"), ["--target", "trn1", "--auto-cast", "matmult", "--auto-cast-type", "fp16"]),
        (("inf1",), ["--fast-math", "none"]),
        (("inf1", "all"), ["--fast-math", "fp32-cast-all"]),
        (("inf1", "all", "fp16"), ["--fast-math", "fp32-cast-all-fp16"]),
        (("inf1", "matmult", "bf16"), ["--fast-math", "fp32-cast-matmult-bf16"]),
    ],
)
def test_flags(sdk, settings, flags):
    compiler = compiler_for(*settings)
    assert compiler.flags == flags
    compiler.trace(torch.nn.Identity(), (torch.ones(1),))  # the stand-in knows them, too
    assert sdk.calls[0]["flags"] == dict(zip(flags[::2], flags[1::2], strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("inf3",), r"NeuronTrace\.target: must be one of cpu, inf1, inf2, trn1, got 'inf3'"),
        (("inf2", "matmul"), r"NeuronTrace\.auto_cast: must be one of none, matmult, all, got 'matmul'"),
        (("inf1", "all", "tf32"), r"NeuronTrace\.auto_cast_type: must be one of bf16, fp16, got 'tf32'"),
        (("cpu", "all"), r"NeuronTrace: target cpu has no compiler; leave auto_cast and compiler_args out"),
    ],
)
def test_unknown_target_or_cast(settings, message):
    with pytest.raises(ValueError, match=message):
        compiler_for(*settings)


def test_cpu_backend_where_there_is_no_device(sdk):
    compiler_for("inf2").trace(torch.nn.Identity(), (torch.ones(1),))
    assert sdk.calls[0]["cpu_backend"] is True


def test_device_is_used_where_there_is_one(sdk, device):
    compiler_for("inf2").trace(torch.nn.Identity(), (torch.ones(1),))
    assert sdk.calls[0]["cpu_backend"] is False


@pytest.mark.parametrize("target", ["inf1", "inf2"])
def test_supported_share(sdk, target):
    support = Tracing(network("bert"), rows(2, 5), 1, 8).support(compiler_for(target))
    assert str(support) == "100.00% of the operators are supported"


def test_unsupported_operator_is_named(monkeypatch):
    Sdk(monkeypatch, refused=["aten::gelu", "aten::tanh"])
    traced = Tracing(network("bert"), rows(2, 5), 1, 8)
    with pytest.raises(
        ValueError,
        match=r"neuronx-cc cannot compile the network: 9\d\.\d\d% of .*not supported: aten::gelu, aten::tanh;",
    ):
        traced.support(compiler_for("inf2"))
    on_inf1 = traced.support(compiler_for("inf1"))  # where the host runs what is not supported
    assert sorted(on_inf1.unsupported) == ["aten::gelu", "aten::tanh"]
    assert 0.9 < on_inf1.share < 1


def test_refusal_of_the_compiler_is_one_line(tmp_path, sdk):
    traced = Tracing(network("bert"), rows(2, 5), 1, 8)
    with pytest.raises(ValueError, match=r"cannot be traced: unrecognized arguments: --speed 9; change the network"):
        traced.save(compiler_for("inf2", arguments=["--speed", "9"]), tmp_path)


@pytest.mark.parametrize(("target", "missing"), [("inf1", "torch_neuron.trace"), ("trn1", "torch_neuronx.trace")])
def test_sdk_that_is_not_there(target, missing):
    with pytest.raises(
        ValueError, match=rf"AWS Neuron SDK is not installed \({missing}.*own package index.*target cpu"
    ):
        compiler_for(target).check_installed()


def test_empty_package_of_the_same_name_is_no_sdk(monkeypatch):
    for name in ("torch_neuronx", "neuronxcc"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(ValueError, match=r"torch_neuronx\.trace, torch_neuronx\.analyze, neuronxcc\.__version__ not"):
        compiler_for("inf2").check_installed()


def test_graph_for_another_machine(tmp_path, sdk, device, monkeypatch):
    write(tmp_path, network("bert"), compiler_for("inf2"))
    monkeypatch.setattr(neuron, "DEVICE", tmp_path / "none")
    with pytest.raises(ValueError, match="was made by neuronx-cc and this machine has no Neuron device"):
        TracedNetwork(tmp_path)


def test_folder_without_graph(tmp_path):
    save_network(network("bert"), tmp_path)
    with pytest.raises(ValueError, match="holds no traced graph, see NeuronTrace"):
        TracedNetwork(tmp_path)


@pytest.mark.parametrize("names", [["input_ids", "attention_mask", "token_type_ids"], ["input_ids", "attention_mask"]])
def test_tokenizer_gives_the_shape_and_the_inputs(tmp_path, names):
    AutoTokenizer.from_pretrained(TINY_BERT).save_pretrained(tmp_path)
    fix_tokenizer(tmp_path, 8, names)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["hello water", "what is the leak of france my dear water desk paper plant room"]
    encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    assert {name: tuple(tensor.shape) for name, tensor in encoded.items()} == dict.fromkeys(names, (2, 8))
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [len(row.ids) for row in alone.encode_batch(texts)] == [8, 8]
