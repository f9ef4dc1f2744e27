"""Models that compute different outputs have different fingerprints, wherever they are stored."""

import json
import shutil

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from lightning_kd.teachers.fingerprint import fingerprint
from tests.helpers import LABELS, save_model, tiny_bert


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fingerprint") / "teacher"
    save_model(tiny_bert(layers=1, seed=1), folder)
    return folder


@pytest.fixture
def copy(teacher, tmp_path):
    return shutil.copytree(teacher, tmp_path / "elsewhere")


def flip_bit(file, offset):
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


# ---- folders and hub ids


def test_path_and_tokenizer_are_ignored(teacher, copy):
    (copy / "README.md").write_text("a card")
    (copy / "tokenizer.json").write_text("{}")
    assert fingerprint(str(copy)) == fingerprint(str(teacher))
    assert len(fingerprint(str(copy))) == 64


def test_all_model_files(teacher, copy):
    """Each change to a copy of the teacher changes its fingerprint."""
    fingerprints = [fingerprint(str(teacher))]
    for offset in (9, -1):  # in the header, in the weights
        flip_bit(copy / "model.safetensors", offset)
        fingerprints.append(fingerprint(str(copy)))
    config = json.loads((copy / "config.json").read_text())
    for change in ({"id2label": dict(enumerate(LABELS[::-1]))}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}):
        config |= change
        (copy / "config.json").write_text(json.dumps(config))
        fingerprints.append(fingerprint(str(copy)))
    for name in ("model-2.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "adapter_config.json"):
        (copy / name).write_text("{}")
        fingerprints.append(fingerprint(str(copy)))
    (copy / "pytorch_model.bin").rename(copy / "other.bin")
    fingerprints.append(fingerprint(str(copy)))
    assert len(set(fingerprints)) == len(fingerprints) == 11


def test_subfolder_and_other_options(teacher, tmp_path):
    folder = tmp_path / "several"
    shutil.copytree(teacher, folder / "first")
    before = fingerprint(str(folder), {"subfolder": "first"})
    assert before != fingerprint(str(folder), {"subfolder": "first", "dtype": "bfloat16"})
    flip_bit(folder / "first" / "model.safetensors", -1)
    assert before != fingerprint(str(folder), {"subfolder": "first"})


def test_missing_model():
    with pytest.raises(OSError, match="teacher 'no/body'"):
        fingerprint("no/body")


def test_hub_id_by_commit(teacher, add_to_hub_cache):
    fingerprints = []
    for name, commit in (("some", "a" * 40), ("some", "b" * 40), ("any", "b" * 40), ("some", "a" * 40)):
        add_to_hub_cache(teacher, f"{name}/body", commit)
        fingerprints.append(fingerprint(f"{name}/body"))
        assert fingerprint(f"{name}/body", {"revision": commit}) == fingerprints[-1]
    assert len(set(fingerprints)) == 3
    assert fingerprints[0] == fingerprints[3]


# ---- modules


def sequential(activation=nn.ReLU, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 3, bias=bias)).to(dtype)


def test_modules():
    changed = sequential()
    with torch.no_grad():
        changed[2].weight[1, 2] += 1e-6
    renamed = nn.ModuleDict(dict(zip("abc", sequential(), strict=True)))
    others = [sequential(nn.GELU), sequential(bias=False), sequential(dtype=torch.bfloat16), changed, renamed]
    expected = fingerprint(sequential())
    assert len({expected, *map(fingerprint, others)}) == 6
    assert fingerprint(sequential().train().requires_grad_(False)) == expected


def test_configuration_of_a_module(teacher):
    first, second = (BertForSequenceClassification.from_pretrained(teacher) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)
    second.config.id2label = dict(enumerate(LABELS[::-1]))
    assert fingerprint(first) != fingerprint(second)


class ExtraState(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def get_extra_state(self):
        return self.extra


def test_extra_state():
    assert fingerprint(ExtraState("a")) == fingerprint(ExtraState("a")) != fingerprint(ExtraState("b"))


def module_with(tensor):
    module = nn.Module()
    module.register_buffer("weight", tensor)
    return module


def test_value_shape_and_dtype_of_any_tensor():
    ones = torch.ones(2, 3)
    others = [ones.T, ones.view(torch.int32), torch.empty(0), torch.tensor(2.0), torch.tensor([True])]
    assert len({fingerprint(module_with(tensor)) for tensor in (ones, *others)}) == 6
    assert fingerprint(module_with(torch.ones(3, 2).T)) == fingerprint(module_with(ones))  # not contiguous
