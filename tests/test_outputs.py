import math
import re
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from lightning_kd.losses import DISTLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.outputs import AUGMENTED, TEACHER_INPUTS, Head, Outputs, predictions_agree, select_examples


def head(rows=2, classes=3):
    return Head(torch.zeros(rows, classes))


def test_outputs_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Outputs({"label": head()}).heads = {}


@pytest.mark.parametrize("rows", [5, 0])
def test_num_targets(rows):
    assert Outputs({"start": head(rows), "end": head(rows)}).num_targets == rows


def test_zip_heads_pairs_by_name_in_the_students_order():
    student = Outputs({"start": head(), "end": head()})
    teacher = Outputs({"end": head(), "start": head()})
    pairs = list(student.zip_heads(teacher))
    assert [s for s, _ in pairs] == list(student.heads.values())
    assert [t for _, t in pairs] == [teacher.heads["start"], teacher.heads["end"]]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"start": head()}, r"heads: the student has \['label'\], the teacher \['start'\]"),
        # (2, 1) would broadcast
        *[
            ({"label": head(*shape)}, rf"head 'label': student .*\(2, 3\), teacher .*{re.escape(str(shape))}")
            for shape in ((2, 4), (3, 3), (1, 3), (2, 1))
        ],
    ],
)
def test_other_heads_and_shapes_raise(teacher, message):
    with pytest.raises(ValueError, match=message):
        list(Outputs({"label": head()}).zip_heads(Outputs(teacher)))


def test_select_examples_follows_nested_batches():
    inputs = {"input_ids": torch.tensor([[1], [2], [3]])}
    batch = {**inputs, "text": ["a", "b", "c"], "answers": [["x"], [], ["y"]], "meta": [{"n": 1}, {"n": 2}, {"n": 3}]}
    nested = {**batch, AUGMENTED: inputs, TEACHER_INPUTS: [inputs, inputs]}
    selected = select_examples(nested, [2, 0])
    assert selected["text"] == ["c", "a"]
    assert selected["answers"] == [["y"], ["x"]]
    assert selected["meta"] == [{"n": 3}, {"n": 1}]
    for part in (selected, selected[AUGMENTED], *selected[TEACHER_INPUTS]):
        assert part["input_ids"].tolist() == [[3], [1]]


# ---- kinds of heads

LOGITS = torch.tensor([[1.5, -0.5, 0.3], [-2.0, 0.7, 0.0]])
TEACHER = torch.tensor([[0.2, 0.4, -3.0], [1.0, -1.0, 2.0]])
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
UNKNOWN = torch.tensor([[1.0, math.nan, 1.0], [0.0, 0.0, math.nan]])


def test_hard_labels_of_binary_heads_are_the_binary_cross_entropy():
    loss = HardLabelLoss()
    torch.testing.assert_close(
        loss(Outputs({"a": Head(LOGITS, LABELS, kind="binary")})), binary_cross_entropy_with_logits(LOGITS, LABELS)
    )
    known = ~UNKNOWN.isnan()
    expected = binary_cross_entropy_with_logits(LOGITS[known], UNKNOWN[known])
    student = Outputs({"a": Head(LOGITS, UNKNOWN, kind="binary")})
    torch.testing.assert_close(loss(student), expected)
    assert loss.num_elements(student) == 4
    integers = Outputs({"a": Head(LOGITS, torch.where(known, LABELS, -100).long(), kind="binary")})
    torch.testing.assert_close(loss(integers), expected)


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, False, True], [True, True, True]])])
def test_soft_targets_of_binary_heads_are_the_bernoulli_divergence(mask):
    student, teacher = (Outputs({"a": Head(z, mask=mask, kind="binary")}) for z in (LOGITS, TEACHER))
    p, q = (torch.distributions.Bernoulli(logits=z / 2) for z in (TEACHER, LOGITS))
    divergence = torch.distributions.kl_divergence(p, q)
    expected = 4 * (divergence if mask is None else divergence[mask]).mean()
    loss = SoftTargetLoss(temperature=2.0)
    torch.testing.assert_close(loss(student, teacher), expected)
    assert loss.num_elements(student) == (6 if mask is None else 5)


@pytest.mark.parametrize("kind", ["value", "vector"])
def test_losses_on_classes_reject_heads_without_classes(kind):
    student, teacher = (Outputs({"score": Head(z, LABELS, kind=kind)}) for z in (LOGITS, TEACHER))
    for loss in (HardLabelLoss(), SoftTargetLoss(), DISTLoss()):
        with pytest.raises(ValueError, match=rf"{type(loss).__name__}: head 'score' .* '{kind}'"):
            loss(student, teacher)
    torch.testing.assert_close(LogitMSELoss()(student, teacher), (LOGITS - TEACHER).square().mean())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["categorical", "binary"])
def test_logits_of_masked_classes_may_be_infinite(value, kind):
    logits = torch.tensor([[1.0, value], [value, 1.0], [1.0, 2.0]])
    assert Head(logits, kind=kind).is_finite.tolist() == [False, False, True]
    assert Head(logits, mask=torch.tensor([[True, False]] * 3), kind=kind).is_finite.tolist() == [True, False, True]


def test_predictions_of_each_kind():
    mask = torch.tensor([[False, True, True], [True, True, True]])
    assert Head(LOGITS, mask=mask).prediction.tolist() == [2, 1]
    assert Head(LOGITS, kind="binary").prediction.tolist() == [[True, False, True], [False, True, False]]
    assert Head(LOGITS, mask=mask, kind="binary").prediction.tolist() == [[False, False, True], [False, True, False]]
    assert Head(LOGITS, kind="value").prediction is LOGITS
    assert predictions_agree(torch.tensor([1, 2]), torch.tensor([1, 3])).tolist() == [True, False]
    assert predictions_agree(torch.tensor([1.0, 2.0]), torch.tensor([1.001, 2.5])).tolist() == [True, False]
