"""Traced graphs match PyTorch for any batch size, model family and task."""

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
from lightning_kd.export.neuron import NeuronCC, NeuronXCC, get_compiler
from lightning_kd.export.tracing import TracedModel, Tracer, configure_tokenizer
from lightning_kd.models import call_model
from tests.export.families import MODEL_CLASSES, assert_same, build_model, make_batch
from tests.helpers import TINY_BERT, save_model
from tests.neuron_sdk import FakeNeuronSDK

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # compilers warn here

TASK = "text-classification"


@pytest.fixture
def sdk(monkeypatch):
    return FakeNeuronSDK(monkeypatch)


@pytest.fixture
def neuron_device(tmp_path, monkeypatch):
    """A machine with a Neuron device."""
    (tmp_path / "neuron0").touch()
    monkeypatch.setattr(neuron, "NEURON_DEVICE", tmp_path / "neuron0")


@pytest.fixture
def tracer():
    return Tracer(build_model("bert"), make_batch(2, 5), 1, 8)


@pytest.fixture
def traced(tmp_path):
    return export_and_load(tmp_path, build_model("bert"))


def export_and_load(folder, model, compiler=None):
    compiler = compiler or TorchScript()
    tracer = Tracer(model, make_batch(2, 5), 3, 16)
    tracer.save(compiler, folder)
    model.config.neuron = tracer.neuron_config(compiler, TASK, "none", "bf16")
    model.config.save_pretrained(folder)
    return TracedModel(folder, "SequenceClassification" not in type(model).__name__)


@pytest.mark.parametrize("family", MODEL_CLASSES)
def test_same_logits_for_any_batch_size(tmp_path, family):
    original = build_model(family)
    attn_implementation = original.config._attn_implementation
    traced = export_and_load(tmp_path, original)
    assert original.config._attn_implementation == attn_implementation
    for batch in (make_batch(1, 1), make_batch(2, 9, padded=3), make_batch(3, 16), make_batch(7, 12, padded=8)):
        with torch.no_grad():
            assert_same(call_model(original, batch), call_model(traced, batch))


def test_num_classes_equal_to_sequence_length(tmp_path):
    original = build_model("bert")
    original.classifier = torch.nn.Linear(16, 16)
    traced = export_and_load(tmp_path, original)
    assert call_model(traced, make_batch(4, 5)).logits.shape == (4, 16)


def test_example_inputs_are_always_padded():
    full = make_batch(3, 16)
    _, mask, _ = Tracer(build_model("bert"), full, 3, 16).example_inputs
    assert mask.sum(1).tolist() == [15, 15, 15]
    assert full["attention_mask"].all()


def test_input_longer_than_the_graph_raises(traced):
    with pytest.raises(ValueError, match="input_ids: 17 tokens exceed the graph's 16"):
        call_model(traced, make_batch(1, 17))


def test_missing_input_raises(traced):
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with pytest.raises(ValueError, match="inputs: attention_mask missing"):
        traced(**ids)
    ids["attention_mask"] = torch.ones(1, 4).long()
    without, zeros = traced(**ids), traced(**ids, token_type_ids=torch.zeros(1, 4).long())
    assert torch.equal(without.logits, zeros.logits)


@pytest.mark.parametrize("method", ["analyze", "save"])
def test_untraceable_model_raises(tmp_path, tracer, method):
    def refuse(module, args, output):
        raise RuntimeError("not with me\nand more")

    tracer.model.classifier.register_forward_hook(refuse)
    arguments = [tmp_path] if method == "save" else []
    with pytest.raises(ValueError, match="BertForSequenceClassification cannot be traced: not with me; "):
        getattr(tracer, method)(TorchScript(), *arguments)


@pytest.mark.parametrize(
    ("compiler", "compiler_type"),
    [(NeuronXCC(["--target", "inf2"]), "neuronx-cc"), (NeuronCC(["--fast-math", "none"]), "neuron-cc")],
)
def test_folder_matches_the_optimum_neuron_layout(tmp_path, sdk, neuron_device, compiler, compiler_type):
    original = build_model("bert")
    export_and_load(tmp_path, original, compiler)
    assert [file.name for file in tmp_path.glob("*.neuron")] == ["model.neuron"]
    section = json.loads((tmp_path / "config.json").read_text())["neuron"]
    # optimum/neuron/modeling_traced.py: _neuron_config_init and _from_pretrained
    expected = {
        "static_batch_size": 3,
        "static_sequence_length": 16,
        "dynamic_batch_size": False,
        "compiler_type": compiler_type,
        "model_type": "bert",
        "task": TASK,
        "inline_weights_to_neff": True,
        "int_dtype": "int64",
        "float_dtype": "fp32",
    }
    assert expected.items() <= section.items()
    assert Version(section["compiler_version"]) > Version("1")
    # optimum/neuron/modeling.py: NeuronModelForSequenceClassification gives them by position
    batch = make_batch(3, 16, padded=4)
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
    with torch.no_grad():
        expected = call_model(original, batch).logits
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.neuron")(*inputs)[0], expected)
        torch.testing.assert_close(call_model(TracedModel(tmp_path), batch).logits, expected)


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
def test_compiler_flags(sdk, settings, flags):
    compiler = get_compiler(*settings)
    assert compiler.flags == flags
    compiler.trace(torch.nn.Identity(), (torch.ones(1),))  # the stand-in knows them, too
    assert sdk.calls[0]["flags"] == dict(zip(flags[::2], flags[1::2], strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("inf2", "matmul"), r"NeuronTrace\.auto_cast: must be one of none, matmult, all, got 'matmul'"),
        (("inf1", "all", "tf32"), r"NeuronTrace\.auto_cast_type: must be one of bf16, fp16, got 'tf32'"),
        (("cpu", "all"), r"NeuronTrace\.target: cpu has no compiler"),
    ],
)
def test_unsupported_cast_raises(settings, message):
    with pytest.raises(ValueError, match=message):
        get_compiler(*settings)


def test_cpu_backend_is_used_without_a_device(sdk, request):
    get_compiler("inf2").trace(torch.nn.Identity(), (torch.ones(1),))
    request.getfixturevalue("neuron_device")
    get_compiler("inf2").trace(torch.nn.Identity(), (torch.ones(1),))
    assert [call["cpu_backend"] for call in sdk.calls] == [True, False]


def test_all_operators_are_supported(sdk, tracer):
    assert str(tracer.analyze(get_compiler("inf1"))) == "100.00% of the operators are supported"


def test_unsupported_operator_raises(monkeypatch, tracer):
    FakeNeuronSDK(monkeypatch, unsupported=["aten::gelu", "aten::tanh"])
    with pytest.raises(ValueError, match=r"cannot compile the model: 9\d\.\d\d% of .*: aten::gelu, aten::tanh;"):
        tracer.analyze(get_compiler("inf2"))
    on_inf1 = tracer.analyze(get_compiler("inf1"))  # where the host runs what is not supported
    assert sorted(on_inf1.unsupported_operators) == ["aten::gelu", "aten::tanh"]
    assert 0.9 < on_inf1.fraction < 1


@pytest.mark.parametrize(
    ("target", "empty_packages", "missing"),
    [
        ("inf1", [], "torch_neuron.trace, torch_neuron.analyze_model, neuroncc.__version__"),
        # the packages of these names on PyPI
        ("inf2", ["torch_neuronx", "neuronxcc"], "torch_neuronx.trace, torch_neuronx.analyze, neuronxcc.__version__"),
    ],
)
def test_missing_sdk_raises(monkeypatch, target, empty_packages, missing):
    for name in empty_packages:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(ValueError, match=rf"AWS Neuron SDK is not installed \({missing} not found\).*target cpu"):
        get_compiler(target).check_installed()


def test_graph_without_its_device_raises(tmp_path, sdk, neuron_device, monkeypatch):
    export_and_load(tmp_path, build_model("bert"), get_compiler("inf2"))
    monkeypatch.setattr(neuron, "NEURON_DEVICE", tmp_path / "none")
    with pytest.raises(ValueError, match="was compiled by neuronx-cc, and this machine has no Neuron"):
        TracedModel(tmp_path)


def test_folder_without_graph_raises(tmp_path):
    save_model(build_model("bert"), tmp_path)
    with pytest.raises(ValueError, match="has no traced graph"):
        TracedModel(tmp_path)


@pytest.mark.parametrize("names", [["input_ids", "attention_mask", "token_type_ids"], ["input_ids", "attention_mask"]])
def test_tokenizer_pads_to_the_shape_and_returns_the_inputs(tmp_path, names):
    AutoTokenizer.from_pretrained(TINY_BERT).save_pretrained(tmp_path)
    configure_tokenizer(tmp_path, 8, names)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["hello water", "what is the leak of france my dear water desk paper plant room"]
    encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    assert {name: tuple(tensor.shape) for name, tensor in encoded.items()} == dict.fromkeys(names, (2, 8))
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [len(row.ids) for row in alone.encode_batch(texts)] == [8, 8]
