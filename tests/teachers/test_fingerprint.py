"""Two networks that compute different things have different fingerprints; where they lie does not count."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from torch import nn
from transformers import BertForSequenceClassification

from lightning_kd.teachers.fingerprint import fingerprint
from tests.helpers import LABELS, save_model, tiny_bert


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tmp_path_factory.mktemp("fingerprint") / "teacher"


@pytest.fixture(scope="module", autouse=True)
def _saved(teacher):
    save_model(tiny_bert(layers=1, seed=1), teacher)


@pytest.fixture
def copy(teacher, tmp_path):
    return shutil.copytree(teacher, tmp_path / "elsewhere")


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_place_and_tokenizer_of_a_folder_do_not_count(teacher, copy):
    (copy / "README.md").write_text("a card")
    (copy / "tokenizer.json").write_text("{}")
    assert fingerprint(str(copy)) == fingerprint(str(teacher))
    assert len(fingerprint(str(copy))) == 64


@pytest.mark.parametrize("at", [9, -1])
def test_flipped_bit_in_the_weights(teacher, copy, at):
    flip(copy / "model.safetensors", at)
    assert fingerprint(str(copy)) != fingerprint(str(teacher))


@pytest.mark.parametrize(
    ("field", "value"),
    [("id2label", dict(enumerate(LABELS[::-1]))), ("hidden_act", "relu"), ("layer_norm_eps", 1e-5)],
)
def test_configuration(teacher, copy, field, value):
    config = json.loads((copy / "config.json").read_text())
    assert config[field] != value
    (copy / "config.json").write_text(json.dumps({**config, field: value}))
    assert fingerprint(str(copy)) != fingerprint(str(teacher))


def test_every_kind_of_weights_counts(teacher, copy):
    fingerprints = {fingerprint(str(teacher))}
    for name in ("model-00002-of-00002.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        (copy / name).write_bytes(b"more")
        fingerprints.add(fingerprint(str(copy)))
    (copy / "adapter_config.json").write_text("{}")
    fingerprints.add(fingerprint(str(copy)))
    (copy / "pytorch_model.bin").rename(copy / "other.bin")
    fingerprints.add(fingerprint(str(copy)))
    assert len(fingerprints) == 6


def test_weights_in_a_subfolder_and_other_arguments(teacher, tmp_path):
    folder = tmp_path / "several"
    shutil.copytree(teacher, folder / "first")
    first = fingerprint(str(folder), {"subfolder": "first"})
    assert first != fingerprint(str(folder), {"subfolder": "first", "dtype": "bfloat16"})
    flip(folder / "first" / "model.safetensors", -1)
    assert first != fingerprint(str(folder), {"subfolder": "first"})


def test_no_network():
    with pytest.raises(OSError, match="teacher 'no/body' is neither a local folder"):
        fingerprint("no/body")


def test_hub_id_is_known_by_its_commit(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fingerprints = []
    for name, commit in (("some", "a" * 40), ("some", "b" * 40), ("any", "b" * 40), ("some", "a" * 40)):
        folder = tmp_path / f"models--{name}--body"  # as the hub's own cache has it
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        shutil.copytree(teacher, folder / "snapshots" / commit, dirs_exist_ok=True)
        fingerprints.append(fingerprint(f"{name}/body"))
    assert len(set(fingerprints)) == 3
    assert fingerprints[0] == fingerprints[3]


def network(activation=nn.ReLU, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 3, bias=bias)).to(dtype)


def test_modules():
    first = fingerprint(network())
    assert fingerprint(network()) == first
    others = [network(nn.GELU), network(bias=False), network(dtype=torch.bfloat16)]
    changed = network()
    with torch.no_grad():
        changed[2].weight[1, 2] += 1e-6
    renamed = nn.ModuleDict(dict(zip("abc", network(), strict=True)))
    assert len({first, *map(fingerprint, [*others, changed, renamed])}) == 6


def test_module_in_train_mode_trained_on_or_elsewhere_is_the_same():
    one = network()
    first = fingerprint(one)
    one.train().requires_grad_(False)
    assert fingerprint(one) == first


def test_configuration_of_a_module(teacher):
    one, other = (BertForSequenceClassification.from_pretrained(teacher) for _ in range(2))
    assert fingerprint(one) == fingerprint(other)
    other.config.id2label = dict(enumerate(LABELS[::-1]))
    assert fingerprint(one) != fingerprint(other)


class Strange(nn.Module):
    """With an empty tensor, one without a dimension, a bool, one that is not contiguous, and a state of its own."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra
        tensors = {"e": torch.empty(0), "n": torch.tensor(2.0), "b": torch.tensor([True]), "t": torch.ones(2, 3).T}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def get_extra_state(self):
        return self.extra


def test_shape_and_type_of_the_same_bytes():
    tensors = [torch.ones(2, 3), torch.ones(3, 2), torch.ones(2, 3).view(torch.int32)]
    modules = [nn.Module() for _ in tensors]
    for one, tensor in zip(modules, tensors, strict=True):
        one.register_buffer("weight", tensor)
    assert len(set(map(fingerprint, modules))) == 3


def test_strange_states():
    assert fingerprint(Strange("a")) == fingerprint(Strange("a")) != fingerprint(Strange("b"))
