"""What is refused before the first step."""

import json
import re

import pytest
from transformers import AutoTokenizer

from lightning_kd import SequenceClassification
from lightning_kd.teachers.checks import check_tokenizers, tokenizer_fingerprint
from lightning_kd.teachers.teacher import Teacher
from tests.helpers import TINY_BERT, save_model, tiny_bert

TASK = SequenceClassification()


def save_tokenizer(folder, **settings):
    """The tiny tokenizer as a folder in which some settings or vocabulary entries are other ones."""
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
        "'hello' against 'dolphin' at id 610",
    ),
    "swap": (lambda folder: save_tokenizer(folder, rename={"a": "b", "b": "a"}), "'a' against 'b' at id 16"),
    "added": (
        lambda folder: add_word(save_tokenizer(folder)),
        "1200 against 1201 entries, first.*'dolphin' at id 1200",
    ),
    "special": (lambda folder: change_separator(save_tokenizer(folder)), r"special tokens.*\[SEP\].*against.*\[CLS\]"),
    "case": (
        lambda folder: save_tokenizer(folder, do_lower_case=False),
        "normalizer.*lowercase.*True.* against .*False",
    ),
    "accents": (
        lambda folder: save_tokenizer(folder, strip_accents=False),
        "normalizer.*strip_accents.*None.* against .*False",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_sees_what_changes_ids_or_their_meaning(tmp_path, tokenizer, change):
    assert tokenizer_fingerprint(CHANGES[change][0](tmp_path)) != tokenizer_fingerprint(tokenizer)


def test_fingerprint_is_that_of_the_same_tokenizer_from_elsewhere(tmp_path, tokenizer):
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


@pytest.mark.parametrize("change", CHANGES)
def test_other_tokenizer_is_refused_with_the_difference_and_the_remedy(tmp_path, tokenizer, change):
    make, difference = CHANGES[change]
    teacher = Teacher(save_model(tiny_bert(), tmp_path / "teacher", tokenizer), TASK)
    students = make(tmp_path / "student")
    remedy = r"choose a student with the teacher's vocabulary, or .* --model\.ignore_checks\+=tokenizer_mismatch"
    with pytest.raises(
        ValueError, match=rf"teacher '.*teacher' and student '.*student'.*\(.*{difference}.*\).*{remedy}"
    ):
        check_tokenizers(teacher, students, ignore_mismatch=False)
    check_tokenizers(teacher, students, ignore_mismatch=True)


def test_every_network_of_an_ensemble_is_compared(tmp_path, tokenizer):
    same = save_model(tiny_bert(), tmp_path / "same")
    check_tokenizers(Teacher([same, same], TASK), tokenizer, ignore_mismatch=False)
    other = save_model(tiny_bert(), tmp_path / "other", save_tokenizer(tmp_path / "t", rename={"hello": "dolphin"}))
    with pytest.raises(ValueError, match=r"teacher '.*other'"):
        check_tokenizers(Teacher([same, other], TASK), tokenizer, ignore_mismatch=False)


def test_module_without_a_tokenizer_is_not_compared(tokenizer):
    check_tokenizers(Teacher(tiny_bert(), TASK), tokenizer, ignore_mismatch=False)


def test_teacher_folder_without_a_tokenizer_is_warned_about(tmp_path, tokenizer):
    tiny_bert().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"tokenizers not compared: teacher tokenizer '.*' is on disk but"):
        check_tokenizers(Teacher(str(tmp_path), TASK), tokenizer, ignore_mismatch=False)
