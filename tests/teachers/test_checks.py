"""Checks of the teacher before the first step: its tokenizer and its score."""

import json
import re

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from lightning_kd import SequenceClassification
from lightning_kd.teachers.checks import (
    check_teacher_inputs,
    check_teacher_score,
    evaluate_teacher,
    tokenizer_fingerprint,
)
from lightning_kd.teachers.teacher import Teacher
from tests.helpers import LABELS, TINY_BERT, data, save_model, tiny_bert

TASK = SequenceClassification()


def check_tokenizers(source, tokenizer, ignore_mismatch=False):
    datamodule = data("unread.json", tokenizer=tokenizer)
    check_teacher_inputs(Teacher(source, TASK), datamodule, nn.ModuleDict(), ignore_mismatch)


def save_tokenizer(folder, **settings):
    """Save the tiny tokenizer with changed settings or vocabulary entries, and load it."""
    AutoTokenizer.from_pretrained(TINY_BERT).save_pretrained(folder)
    config, vocabulary = (folder / name for name in ("tokenizer_config.json", "tokenizer.json"))
    renamed = settings.pop("rename", {})
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    content = json.loads(vocabulary.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {renamed.get(word, word): index for word, index in words.items()}
    vocabulary.write_text(json.dumps(content))
    return AutoTokenizer.from_pretrained(folder)


def add_word(tokenizer):
    tokenizer.add_tokens(["dolphin"])
    return tokenizer


def change_separator(tokenizer):
    tokenizer.sep_token = "[CLS]"
    return tokenizer


CHANGES = {
    "entry": (
        lambda folder: save_tokenizer(folder, rename={"hello": "dolphin"}),
        "610, 'hello'.* vs. .*610, 'dolphin'",
    ),
    "swap": (lambda folder: save_tokenizer(folder, rename={"a": "b", "b": "a"}), "16, 'a'.* vs. .*16, 'b'"),
    "added": (lambda folder: add_word(save_tokenizer(folder)), "1200 vs. 1201 .*None vs. .*1200, 'dolphin'"),
    "special": (lambda folder: change_separator(save_tokenizer(folder)), r"special tokens.*\[SEP\].* vs. .*\[CLS\]"),
    "case": (lambda folder: save_tokenizer(folder, do_lower_case=False), "normalizer.*lowercase.*True.* vs. .*False"),
    "accents": (lambda folder: save_tokenizer(folder, strip_accents=False), "normalizer.*accents.*None.* vs. .*False"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_different_tokenizer(tmp_path, tokenizer, change):
    make, difference = CHANGES[change]
    teacher = save_model(tiny_bert(), tmp_path / "teacher", tokenizer)
    student_tokenizer = make(tmp_path / "student")
    assert tokenizer_fingerprint(student_tokenizer) != tokenizer_fingerprint(tokenizer)
    message = rf"teacher '.*teacher' and student '.*student'.*\(.*{difference}.*\).*ignore_checks\+=tokenizer_mismatch"
    with pytest.raises(ValueError, match=message):
        check_tokenizers(teacher, student_tokenizer)
    check_tokenizers(teacher, student_tokenizer, ignore_mismatch=True)


def test_fingerprint_ignores_file_format_and_padding_settings(tmp_path, tokenizer):
    expected = tokenizer_fingerprint(tokenizer)
    assert re.fullmatch("[0-9a-f]{64}", expected)
    assert tokenizer_fingerprint(save_tokenizer(tmp_path / "json", model_max_length=7, padding_side="left")) == expected
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "words" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path / "words")) == expected


def test_fingerprint_does_not_depend_on_earlier_calls(tokenizer):
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["hello desk", "goodbye"], padding="max_length", truncation=True, max_length=9)
    assert tokenizer_fingerprint(tokenizer) == before


def test_tokenizer_of_each_ensemble_member_is_compared(tmp_path, tokenizer):
    same = save_model(tiny_bert(), tmp_path / "same")
    check_tokenizers([same, same], tokenizer)
    other = save_model(tiny_bert(), tmp_path / "other", save_tokenizer(tmp_path / "t", rename={"hello": "dolphin"}))
    with pytest.raises(ValueError, match=r"teacher '.*other'"):
        check_tokenizers([same, other], tokenizer)


def test_teacher_without_tokenizer(tmp_path, tokenizer):
    check_tokenizers(tiny_bert(), tokenizer)
    tiny_bert().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=rf"tokenizers not compared: .*'{tmp_path}'"):
        check_tokenizers(str(tmp_path), tokenizer)


# ---- score


class Oracle(nn.Module):
    """Predicts the label plus a shift."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = shift

    def forward(self, answers):
        return nn.functional.one_hot((answers + self.shift) % 3, 3).float()


def evaluate(model):
    """Score on 10, 6 and 4 examples of the classes, and one that is padding."""
    labels = torch.tensor([0] * 10 + [1] * 6 + [2] * 5)
    batches = [
        {"answers": labels[part], "labels": labels[part], "row_id": part % 100} for part in torch.arange(21).split(8)
    ]
    batches[-1]["row_id"][-1] = -1
    return evaluate_teacher(Teacher(model, TASK), TASK, batches, TASK.metrics(LABELS))


def test_perfect_teacher():
    scores, counts = evaluate(Oracle())
    assert scores == {"accuracy": 1.0, "f1_macro": 1.0, "in_scope_accuracy": 1.0, "oos_recall": 1.0}
    assert counts.tolist() == [10, 6, 4]
    check_teacher_score("t", TASK, scores["accuracy"], counts, ignore_weak_teacher=False)


@pytest.mark.parametrize("shift", [1, 2])
def test_teacher_with_labels_in_another_order(shift):
    scores, counts = evaluate(Oracle(shift))
    with pytest.raises(ValueError, match=r"teacher 't' has validation accuracy 0\.0000, not better than chance"):
        check_teacher_score("t", TASK, scores["accuracy"], counts, ignore_weak_teacher=False)
    check_teacher_score("t", TASK, scores["accuracy"], counts, ignore_weak_teacher=True)


def test_empty_validation_split():
    with pytest.raises(ValueError, match="the validation split is empty"):
        evaluate_teacher(Teacher(Oracle(), TASK), TASK, [], TASK.metrics(LABELS))
