"""Tokenising happens once; whatever changes the result makes it happen again."""

import pytest
from transformers import AutoTokenizer

from lightning_kd import TextClassificationDataModule
from tests.helpers import TINY_BERT

LONG = "good morning to you see you later"
FILES = {"test.csv": f"text,label\nhello,greet\n{LONG},leave\n"}


class Counting(TextClassificationDataModule):
    """Notes the rows that are tokenised, of all instances."""

    rows: list[list[str]]

    def encode(self, examples):
        self.rows.append(examples["text"])
        return super().encode(examples)


@pytest.fixture
def tokenize(write, monkeypatch, tmp_path):
    """Sets a DataModule up and returns its rows and whether they were tokenised for it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Counting.rows = []

    def tokenize(files=FILES, tokenizer=TINY_BERT, **arguments):
        before = len(Counting.rows)
        data = Counting(str(write(files)), tokenizer, **arguments)
        data.setup("test")
        (batch,) = data.test_dataloader()
        return {name: tensor.tolist() for name, tensor in batch.items()}, len(Counting.rows) > before

    return tokenize


def other_tokenizer(**settings):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_second_time_comes_from_the_cache(tokenize):
    first, tokenized = tokenize()
    assert tokenized
    assert tokenize() == (first, False)
    assert tokenize(tokenizer=other_tokenizer()) == (first, False)
    assert tokenize(batch_size=3) == (first, False)


def test_using_the_tokenizer_does_not_change_the_cache_entry(tokenize):
    first, _ = tokenize()
    used = other_tokenizer()
    used(["hello", LONG], truncation=True, max_length=3, padding="max_length")
    assert tokenize(tokenizer=used) == (first, False)


def test_one_setup_tokenizes_each_split_once(tokenize, clinc_file):
    data = Counting(str(clinc_file.parent / "rows"), TINY_BERT)
    tokenize()
    before = len(Counting.rows)
    data.setup("test")
    data.setup("test")
    data.setup("predict")
    data.setup("predict")
    assert len(Counting.rows) == before + 1


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"test.csv": FILES["test.csv"].replace("hello", "goodbye")}},
        {"files": {"test.csv": FILES["test.csv"] + "bye,leave\n"}},
        {"files": {"test.csv": FILES["test.csv"].replace("leave", "part")}},
        {"max_length": 5},
    ],
    ids=["text", "row", "label name", "max_length"],
)
def test_changed_data_are_tokenized_again(tokenize, change):
    tokenize()
    assert tokenize(**change)[1]
    assert not tokenize()[1]
    assert not tokenize(**change)[1]


def test_label_that_another_split_adds(tokenize):
    tokenize()
    batch, _ = tokenize({**FILES, "dev.csv": "text,label\nwhat,ask\n"})
    assert sorted(batch["labels"]) == [1, 2]


def test_added_token(tokenize):
    batch, _ = tokenize()
    tokenizer = other_tokenizer()
    tokenizer.add_tokens(["morning to you"])
    assert tokenize(tokenizer=tokenizer)[0]["input_ids"] != batch["input_ids"]


def test_side_that_is_cut(tokenize):
    batch, _ = tokenize(max_length=5)
    other, _ = tokenize(tokenizer=other_tokenizer(truncation_side="left"), max_length=5)
    assert (
        other["input_ids"][0]
        == other_tokenizer(truncation_side="left")(LONG, truncation=True, max_length=5)["input_ids"]
    )
    assert other["input_ids"] != batch["input_ids"]


def test_inputs_of_another_family_with_the_same_vocabulary(tokenize):
    # BERT and DistilBERT differ in nothing else
    names = ["input_ids", "attention_mask"]
    assert "token_type_ids" in tokenize()[0]
    assert "token_type_ids" not in tokenize(tokenizer=other_tokenizer(model_input_names=names))[0]
    assert "token_type_ids" in tokenize()[0]
