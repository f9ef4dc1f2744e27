"""Networks return tensors, tuples, mappings and ModelOutputs, of texts, images and tokens."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from lightning_kd.callbacks.distillation.call_recorder import Call, first_tensor, record_calls, replay_call
from lightning_kd.callbacks.distillation.outputs import (
    Layer,
    build_head,
    build_outputs,
    extract_labels,
    extract_logits,
    layer_width,
)
from tests.helpers import tiny_bert

LOGITS = torch.randn(4, 3)
Pair = namedtuple("Pair", ["scores", "extra"])


@pytest.mark.parametrize(
    ("output", "keys"),
    [
        (LOGITS, []),
        ((torch.tensor(0.3), LOGITS, torch.zeros(4, 7)), []),  # with the loss of a network that got labels
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


def test_several_heads():
    output = QuestionAnsweringModelOutput(start_logits=LOGITS, end_logits=LOGITS + 1)
    labels = extract_labels({"start_positions": torch.arange(4) % 3, "end_positions": torch.ones(4).long()}, [])
    assert labels == []
    labels = extract_labels({"s": torch.arange(4) % 3, "e": torch.ones(4).long()}, ["s", "e"])
    call = Call((), {}, [], output, {})
    heads = build_outputs(call, "student", ["start_logits", "end_logits"], labels, []).heads
    assert heads["start_logits"].logits is not heads["end_logits"].logits
    assert torch.equal(heads["end_logits"].logits, LOGITS + 1)
    assert heads["start_logits"].labels.tolist() == [0, 1, 2, 0]
    assert heads["end_logits"].labels.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("output", "keys", "message"),
    [
        ({"out": LOGITS}, [], "the student returns a mapping of 'out', in which no logits are found"),
        ({"out": LOGITS}, ["in"], "logits: what the student returns has no 'in'; it has 'out'"),
        ((LOGITS,), [3], "logits: what the student returns has no 3; it is a tuple"),
        (None, [], "the student returns NoneType, in which no logits"),
    ],
)
def test_logits_that_are_missing(output, keys, message):
    with pytest.raises(ValueError, match=message):
        extract_logits(output, keys, "student")


def test_labels_that_are_missing():
    with pytest.raises(ValueError, match="labels: the batch has no 'y'; it has 'x'"):
        extract_labels({"x": 0}, ["y"])


def test_tokens_without_padding():
    """(B, L, C): the rows are the tokens, in order."""
    logits, labels = torch.randn(2, 3, 5), torch.arange(6).reshape(2, 3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    head = build_head("logits", logits, labels, mask, False)
    assert torch.equal(head.logits, torch.stack([logits[0, 0], logits[0, 1], logits[1, 0]]))
    assert head.labels.tolist() == [0, 1, 3]
    assert build_head("logits", logits, None, None, True).logits.shape == (6, 5)


def test_pixels():
    logits, labels = torch.randn(2, 5, 3, 4), torch.arange(24).reshape(2, 3, 4)
    head = build_head("logits", logits, labels, None, False)
    assert head.logits.shape == (24, 5)
    for row in (0, 7, 23):
        image, pixel = divmod(int(head.labels[row]), 12)
        assert torch.equal(head.logits[row], logits[image, :, pixel // 4, pixel % 4])


def test_shapes_that_are_refused():
    with pytest.raises(ValueError, match=r"'logits' has the shape \(4,\), and the losses compare scores of classes"):
        build_head("logits", torch.zeros(4), None, None, False)
    with pytest.raises(ValueError, match=r"labels: of shape \(4, 2\), but 'logits' of \(4, 3\) needs \(4,\)"):
        build_head("logits", LOGITS, torch.zeros(4, 2).long(), None, False)


class Block(nn.Module):
    """A residual block, whose norm comes last."""

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
        self.nothing = nn.ReLU()


@pytest.mark.parametrize(
    ("path", "width"),
    [
        ("linear", 5),
        ("images", 6),
        ("group", 8),
        ("words", 7),
        ("block", 4),
        ("encoder", 8),
        ("bert.encoder.layer.1", 16),
        ("bert.embeddings", 16),
        ("bert.encoder.layer.0.intermediate", 32),
    ],
)
def test_width_is_read_off_the_weights(path, width):
    assert layer_width(LayerZoo(), path, "student") == width
    assert layer_width(torch.compile(LayerZoo(), backend="eager"), path, "student") == width


@pytest.mark.parametrize("path", ["recurrent", "nothing"])
def test_width_that_the_weights_do_not_say(path):
    with pytest.raises(
        ValueError, match=rf"'{path}' of the teacher does not say how wide its output is; name a linear"
    ):
        layer_width(LayerZoo(), path, "teacher")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 4), (2, 1, 4)),
        ((2, 3, 4), (2, 3, 4)),
        ((2, 4, 3), (2, 3, 4)),
        ((2, 4, 3, 5), (2, 15, 4)),
        ((2, 3, 5, 4), (2, 15, 4)),
    ],
)
def test_hidden_states_of_vectors_tokens_and_feature_maps(shape, expected):
    output = torch.arange(torch.tensor(shape).prod()).reshape(shape)
    states = Layer("layer", 4).states(Call((), {}, [], None, {"layer": output}))
    assert states.shape == expected
    own = output.movedim(1, -1) if shape[1] == 4 else output
    assert torch.equal(states.flatten(), own.flatten())
    assert first_tensor((None, output)) is first_tensor({"states": output}) is output


class Named(nn.Module):
    def __init__(self, *names, open_ended=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.got = None


class First(Named):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        self.got = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        self.labels = labels
        return LOGITS


class OtherOrder(Named):
    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        self.got = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return LOGITS


class Fewer(Named):
    def forward(self, input_ids, inputs_embeds=None, attention_mask=None):
        self.got = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        return LOGITS


class Anonymous(Named):
    def forward(self, x, mask=None, types=None):
        self.got = {"input_ids": x, "attention_mask": mask, "token_type_ids": types}
        return LOGITS


def record_call(model, *args, **kwargs):
    with record_calls(model) as calls:
        model(*args, **kwargs)
    return calls[0]


ROWS = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}


@pytest.mark.parametrize("teacher", [First, OtherOrder, Anonymous])
def test_call_is_repeated_by_position(teacher):
    model = teacher()
    replay_call(record_call(First(), "ids", "mask", "types"), model)
    assert model.got == ROWS


@pytest.mark.parametrize("teacher", [First, OtherOrder])
def test_call_is_repeated_by_name_without_labels(teacher):
    model = teacher()
    replay_call(record_call(First(), **ROWS, labels="labels"), model)
    assert model.got == ROWS
    assert getattr(model, "labels", None) is None


def test_what_the_teacher_does_not_take_is_left_out():
    model = Fewer()
    replay_call(record_call(First(), "ids", "mask", "types"), model)
    assert model.got == {"input_ids": "ids", "attention_mask": "mask", "inputs_embeds": None}


def test_recording_leaves_nothing_behind():
    model = tiny_bert().eval()
    ids = torch.ones(1, 4).long()
    with pytest.raises(ValueError, match="exactly one of input_ids"), record_calls(model, ["bert.encoder.layer.0"]):
        model(None)
    assert not any(part._forward_hooks for part in model.modules())
    with record_calls(model, ["bert.encoder.layer.0"]) as calls:
        model(ids)
        model(input_ids=ids, output_hidden_states=True)
    assert [sorted(call.named_arguments) for call in calls] == [["input_ids"], ["input_ids", "output_hidden_states"]]
    hidden = calls[1].output.hidden_states[1]
    assert all(torch.equal(Layer("bert.encoder.layer.0", 16).states(call), hidden) for call in calls)
