"""Conversion of recorded calls: outputs of any type, shapes of text and images, layers, and replayed arguments."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from lightning_kd.callbacks.distillation.call_recorder import Call, first_tensor, record_calls
from lightning_kd.callbacks.distillation.outputs import Layer, build_head, extract_logits, get_entry
from lightning_kd.callbacks.distillation.teacher import replay_call
from tests.helpers import tiny_bert

LOGITS = torch.randn(4, 3)
Pair = namedtuple("Pair", ["scores", "extra"])


@pytest.mark.parametrize(
    ("output", "keys"),
    [
        (LOGITS, []),
        ((torch.tensor(0.3), LOGITS, torch.zeros(4, 7)), []),  # of a model that got labels
        ([LOGITS], []),
        ({"logits": LOGITS, "features": torch.zeros(4, 7)}, []),
        (SequenceClassifierOutput(loss=torch.tensor(0.3), logits=LOGITS), []),
        ((torch.zeros(4, 7), LOGITS), [1]),
        ({"out": LOGITS, "aux": torch.zeros(4, 3)}, ["out"]),
        (Pair(LOGITS, None), ["scores"]),
        (Pair(LOGITS, None), []),
        (LOGITS, ["out"]),  # a teacher that returns the tensor alone
    ],
)
def test_logits_are_found(output, keys):
    (found,) = extract_logits(output, keys, "student").values()
    assert found is LOGITS


@pytest.mark.parametrize(
    ("output", "keys", "message"),
    [
        ({"out": LOGITS}, [], "logits: .* student.* the keys 'out'"),
        ({"out": LOGITS}, ["in"], "logits: .* no entry 'in'; .* the keys 'out'"),
        ((LOGITS,), [3], "logits: .* no entry 3; .* tuple"),
        (None, [], "logits: .* student.* NoneType"),
    ],
)
def test_missing_logits(output, keys, message):
    with pytest.raises(ValueError, match=message):
        extract_logits(output, keys, "student")


def test_missing_labels():
    with pytest.raises(ValueError, match=r"labels: the batch has no entry 'y'; .* the keys 'x'"):
        get_entry({"x": 0}, "y", "labels", "the batch")


def test_pixels():
    logits, labels = torch.randn(2, 5, 3, 4), torch.arange(24).reshape(2, 3, 4)
    head = build_head("logits", logits, labels, None, False)
    assert head.logits.shape == (24, 5)
    for index in (0, 7, 23):
        image, pixel = divmod(int(head.labels[index]), 12)
        assert torch.equal(head.logits[index], logits[image, :, pixel // 4, pixel % 4])


def test_unsupported_shapes():
    with pytest.raises(ValueError, match=r"logits: 'logits' has shape \(4,\)"):
        build_head("logits", torch.zeros(4), None, None, False)
    with pytest.raises(ValueError, match=r"labels: shape \(4, 2\) .*\(4, 3\).*\(4,\)"):
        build_head("logits", LOGITS, torch.zeros(4, 2).long(), None, False)


class Block(nn.Module):
    """Its last part, a norm, has the width of its output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 9), nn.Linear(9, 4), nn.LayerNorm(4)


class LayerZoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.images = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.group = nn.GroupNorm(2, 8)
        self.words = nn.Embedding(10, 7)
        self.block = Block()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 32)
        self.bert = tiny_bert().bert
        self.recurrent = nn.LSTM(3, 4)
        self.activation = nn.ReLU()


WIDTHS = {"linear": 5, "images": 6, "group": 8, "words": 7, "block": 4, "encoder": 8, "bert.encoder.layer.1": 16}
WIDTHS |= {"bert.embeddings": 16, "bert.encoder.layer.0.intermediate": 32}


@pytest.mark.parametrize(("path", "width"), WIDTHS.items())
def test_width_of_a_layer(path, width):
    assert Layer.find(LayerZoo(), path, "student") == Layer(path, width)
    assert Layer.find(torch.compile(LayerZoo(), backend="eager"), path, "student") == Layer(path, width)


@pytest.mark.parametrize("path", ["recurrent", "activation"])
def test_unknown_width(path):
    with pytest.raises(ValueError, match=rf"layers: .*width of '{path}' in the teacher"):
        Layer.find(LayerZoo(), path, "teacher")


SHAPES = {(2, 4): (2, 1, 4), (2, 3, 4): (2, 3, 4), (2, 4, 3): (2, 3, 4)}
SHAPES |= {(2, 4, 3, 5): (2, 15, 4), (2, 3, 5, 4): (2, 15, 4)}


@pytest.mark.parametrize(("shape", "expected"), SHAPES.items())
def test_hidden_states_of_vectors_tokens_and_feature_maps(shape, expected):
    output = torch.arange(torch.tensor(shape).prod()).reshape(shape)
    states = Layer("layer", 4).extract_states(Call(layers={"layer": output}))
    assert states.shape == expected
    features_last = output.movedim(1, -1) if shape[1] == 4 else output
    assert torch.equal(states.flatten(), features_last.flatten())
    assert first_tensor((None, output)) is first_tensor({"states": output}) is output


class Student(nn.Module):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None, label_mask=None, labels=None):
        self.got, self.labels = [input_ids, attention_mask, token_type_ids, label_mask], labels


class OtherOrder(nn.Module):
    def forward(self, input_ids, label_mask=None, token_type_ids=None, attention_mask=None):
        self.got = [input_ids, attention_mask, token_type_ids, label_mask]


class OtherNames(nn.Module):
    def forward(self, x, mask=None, types=None, others=None):
        self.got = [x, mask, types, others]


class WithoutTokenTypes(nn.Module):
    def forward(self, input_ids, inputs_embeds=None, attention_mask=None, label_mask=None):
        self.got = [input_ids, attention_mask, inputs_embeds, label_mask]


ARGUMENTS = ["input_ids", "attention_mask", "token_type_ids", "label_mask"]


def replay(teacher, by_name=False):
    student = Student()
    with record_calls(student) as calls:
        student(**{name: name for name in ARGUMENTS}, labels="labels") if by_name else student(*ARGUMENTS)
    replay_call(calls[0], teacher)
    return teacher


@pytest.mark.parametrize("teacher", [Student, OtherOrder, OtherNames])
def test_positional_arguments_are_replayed(teacher):
    assert replay(teacher()).got == ARGUMENTS


@pytest.mark.parametrize("teacher", [Student, OtherOrder])
def test_keyword_arguments_are_replayed_without_labels(teacher):
    model = replay(teacher(), by_name=True)
    assert model.got == ARGUMENTS
    assert getattr(model, "labels", None) is None


def test_arguments_that_the_teacher_does_not_accept_are_dropped():
    assert replay(WithoutTokenTypes()).got == ["input_ids", "attention_mask", None, "label_mask"]


def test_recording_removes_its_hooks():
    model, layer = tiny_bert().eval(), "bert.encoder.layer.0"
    ids = torch.ones(1, 4).long()
    with pytest.raises(ValueError, match="exactly one of input_ids"), record_calls(model, [layer]):
        model(None)
    assert not any(part._forward_hooks for part in model.modules())
    with record_calls(model, [layer]) as calls:
        model(ids)
        model(input_ids=ids, output_hidden_states=True)
    assert [sorted(call.named_arguments) for call in calls] == [["input_ids"], ["input_ids", "output_hidden_states"]]
    hidden = calls[1].output.hidden_states[1]
    assert all(torch.equal(Layer(layer, 16).extract_states(call), hidden) for call in calls)
