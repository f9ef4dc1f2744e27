"""Splits in the names of files."""

import re

import pytest

from lightning_kd.data.readers import CORPUS_SUFFIXES, TABLE_SUFFIXES
from lightning_kd.data.splits import find_split_files, read_splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dev.csv", "validation"),
        ("test.jsonl", "test"),
        ("reviews.csv", "train"),
        ("wiki.valid.raw", "validation"),
    ],
)
def test_split_of_a_file(file, name, split):
    path = file(name, "")
    assert find_split_files(path, (*TABLE_SUFFIXES, *CORPUS_SUFFIXES)) == {split: path}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_names_of_the_validation_split(write, name):
    folder = write({"train.csv": "text\na\n", f"{name}.tsv": "text\nb\n", "README.md": "ignored"})
    assert read_splits(folder) == {"train": {"text": ["a"]}, "validation": {"text": ["b"]}}


def test_splits_of_a_corpus(write):
    folder = write({"wiki.train.raw": "a", "wiki.valid.raw": "b", "test.csv": "text\nc", "notes.md": "d", "x.txt": "e"})
    files = {split: file.name for split, file in find_split_files(folder, CORPUS_SUFFIXES).items()}
    assert files == {"train": "wiki.train.raw", "validation": "wiki.valid.raw", "test": "test.csv"}


def test_paths_with_spaces_and_other_alphabets(write):
    folder = write({"meine Daten/Ελληνικά 数据/train.csv": "text\nhello\n"}) / "meine Daten" / "Ελληνικά 数据"
    assert read_splits(folder) == {"train": {"text": ["hello"]}}


@pytest.mark.parametrize(
    ("names", "suffixes", "message"),
    [
        (["reviews.csv"], TABLE_SUFFIXES, "no file named after a split; expected for instance train.csv"),
        (["reviews.csv"], CORPUS_SUFFIXES, "no file named after a split; expected for instance train.txt"),
        (["dev.csv", "val.tsv"], TABLE_SUFFIXES, "both dev.csv and val.tsv are the validation split"),
    ],
)
def test_invalid_folders(write, names, suffixes, message):
    folder = write(dict.fromkeys(names, ""))
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}: {message}"):
        find_split_files(folder, suffixes)


def test_suffix_that_no_reader_takes(file):
    with pytest.raises(ValueError, match=r"c\.pdf: cannot read the suffix '\.pdf'; use one of \.txt, \.raw, \.csv"):
        find_split_files(file("c.pdf", ""), CORPUS_SUFFIXES)
