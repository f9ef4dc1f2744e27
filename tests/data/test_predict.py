"""Rows to predict: from a file of their own, else the test split."""

import pytest

from lightning_kd import TextClassificationDataModule
from tests.helpers import TINY_BERT

TRAIN = {"train.csv": "text,label\nhello,greet\ngoodbye,leave\n"}


@pytest.fixture
def module(write):
    """Makes a DataModule whose rows to predict are in a file of this name and content."""

    def make(name=None, content="", **arguments):
        folder = write({**TRAIN, **({} if name is None else {f"new/{name}": content})})
        path = None if name is None else str(folder / "new" / name)
        return TextClassificationDataModule(str(folder), TINY_BERT, predict_path=path, **arguments)

    return make


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", "hello there\n\ngood morning to you\n"),
        ("rows.csv", "id,text\n7,hello there\n8,good morning to you\n"),
        ("rows.csv", "text,label\nhello there,no label of ours\ngood morning to you,\n"),
        ("rows.jsonl", '{"text": "hello there"}\n{"text": "good morning to you"}\n'),
    ],
)
def test_file_to_predict(module, tokenizer, name, content):
    data = module(name, content)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert data.texts() == {"text": ["hello there", "good morning to you"]}
    assert "labels" not in batch
    rows = zip(batch["row_id"].tolist(), batch["input_ids"], batch["attention_mask"], strict=True)
    for row, ids, mask in rows:
        assert ids[mask.bool()].tolist() == tokenizer(data.texts()["text"][row])["input_ids"]


def test_txt_file_with_other_column_names(write):
    folder = write({"train.csv": "review,label\nfine,good\n", "new.txt": "hello there\n"})
    data = TextClassificationDataModule(
        str(folder), TINY_BERT, text_columns=["review"], predict_path=str(folder / "new.txt")
    )
    data.setup("predict")
    assert data.texts() == {"review": ["hello there"]}


def test_pairs_to_predict(write):
    folder = write({"train.csv": "a,b,label\nhello,hi,same\n", "new/rows.csv": "b,a\nbye,goodbye\n"})
    arguments = {"text_columns": ["a", "b"], "predict_path": str(folder / "new" / "rows.csv")}
    data = TextClassificationDataModule(str(folder), TINY_BERT, **arguments)
    data.setup("predict")
    assert data.texts() == {"a": ["goodbye"], "b": ["bye"]}


def test_missing_file_is_named(module, tmp_path):
    data = TextClassificationDataModule(str(module().path), TINY_BERT, predict_path=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match=r"data\.predict_path: there is no file .*none\.txt"):
        data.setup("predict")


def test_missing_column_names_those_there_are(module):
    with pytest.raises(ValueError, match=r"rows\.csv has no column 'text'; it has 'id', 'words'"):
        module("rows.csv", "id,words\n1,hello\n").setup("predict")


def test_blank_text_names_file_and_row(module):
    with pytest.raises(ValueError, match=r"rows\.csv, row 2: no text in column 'text'"):
        module("rows.csv", "id,text\n1,hello\n2,\n").setup("predict")


@pytest.mark.parametrize(("name", "content"), [("rows.txt", "\n"), ("rows.csv", "text\n")])
def test_empty_file_is_named(module, name, content):
    with pytest.raises(ValueError, match=rf"{name}.* empty"):
        module(name, content).setup("predict")


def test_neither_file_nor_test_split_says_which_argument_to_give(module):
    with pytest.raises(ValueError, match="predict_path"):
        module().setup("predict")
