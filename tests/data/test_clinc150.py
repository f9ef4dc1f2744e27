"""CLINC150 in its original layout."""

import json
import os
import re
from pathlib import Path

import pytest

from lightning_kd import CLINC150DataModule
from tests.helpers import LABELS, TINY_BERT, clinc_rows

CANONICAL = CLINC150DataModule.canonical_label_names
REAL = os.environ.get("LIGHTNING_KD_CLINC150")
LAYOUT_ERROR = r"data_oos_plus\.json' is not in CLINC150's layout \(keys train, val, test"


@pytest.fixture
def module(file):
    """Return a function that builds a DataModule of the content of a JSON file."""
    return lambda content: CLINC150DataModule(str(file("data_oos_plus.json", json.dumps(content))), TINY_BERT)


def of(rows):
    return {"train": rows, "val": [], "test": []}


def test_canonical_labels():
    assert len(set(CANONICAL)) == len(CANONICAL) == 151
    assert CANONICAL[0] == "restaurant_reviews"
    assert CANONICAL.index("oos") == 42
    assert sorted(CANONICAL) != CANONICAL


@pytest.mark.parametrize("as_folder", [False, True])
def test_out_of_scope_examples_come_last(clinc_file, as_folder):
    data = CLINC150DataModule(str(clinc_file.parent if as_folder else clinc_file), TINY_BERT)
    for split, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        texts, intents = zip(*clinc_rows()[key], *clinc_rows()[f"oos_{key}"], strict=True)
        rows = data.load(split)
        assert rows["text"][:] == list(texts)
        assert [LABELS[index] for index in rows["label"]] == list(intents)
    assert data.load("predict").to_dict() == {"text": list(texts)}


def test_other_intents_are_sorted(module):
    assert module(of([["bye", "leave"], ["what", "oos"], ["hello", "greet"]])).label_names == ["greet", "leave", "oos"]


def test_subset_of_the_intents_keeps_their_order(module):
    data = module(of([["move my money", "transfer"], ["what", "oos"], ["a table for two", "restaurant_reservation"]]))
    assert data.label_names == CANONICAL
    assert [CANONICAL[i] for i in data.load("train")["label"]] == ["transfer", "oos", "restaurant_reservation"]


@pytest.mark.parametrize(
    ("variant", "name"),
    [("plus", "data_oos_plus.json"), ("small", "data_small.json"), ("imbalanced", "data_imbalanced.json")],
)
def test_file_of_each_variant(write, variant, name):
    folder = write({"data_full.json": json.dumps(of([["a", "another"]]))})
    with pytest.raises(ValueError, match=re.escape(f"data.path: '{folder}' has no {name}")):
        CLINC150DataModule(str(folder), TINY_BERT, config_name=variant).setup("fit")
    write({name: json.dumps(of([["a", variant]]))})
    assert CLINC150DataModule(str(folder), TINY_BERT, config_name=variant).label_names == [variant]


@pytest.mark.parametrize(
    "content", [{"train": [], "val": []}, {"train": [], "test": []}, {"val": [], "test": []}, [["a", "b"]], "a", None]
)
def test_json_in_another_layout(module, content):
    with pytest.raises(ValueError, match=LAYOUT_ERROR):
        module(content).setup("fit")


@pytest.mark.parametrize("row", ["hello", ["hello"], ["hello", "greet", 1], {"text": "hello"}, None, ["hello", ["a"]]])
@pytest.mark.parametrize("key", ["train", "oos_train"])
def test_malformed_row(module, row, key):
    with pytest.raises(ValueError, match=r"data_oos_plus\.json .*, row 2: expected \[text, intent\], got "):
        module({**of([]), key: [["hello", "greet"], row]}).setup("fit")


@pytest.mark.parametrize("key", ["train", "oos_test"])
@pytest.mark.parametrize("content", [None, 3])
def test_key_without_a_list(module, key, content):
    with pytest.raises(ValueError, match=rf"data_oos_plus\.json.*{key}"):
        module({**of([["hello", "greet"]]), key: content}).setup("fit")


@pytest.mark.parametrize("text", ["", " ", None, 3])
def test_row_without_text(module, text):
    with pytest.raises(ValueError, match=r"\(train\), row 2: no text"):
        module(of([["hello", "greet"], [text, "greet"]])).setup("fit")


def test_invalid_json(file):
    path = file("data_oos_plus.json", '{"train": [],\n "val": [}')
    with pytest.raises(ValueError, match=r"data_oos_plus\.json, line 2, column 10: not JSON"):
        CLINC150DataModule(str(path), TINY_BERT).setup("fit")


@pytest.mark.skipif(REAL is None, reason="LIGHTNING_KD_CLINC150 is not set to a folder with data_oos_plus.json")
def test_sizes_of_the_release():
    data = CLINC150DataModule(str(Path(REAL)), TINY_BERT)
    assert data.label_names == CANONICAL
    assert [len(data.load(split)) for split in ("train", "validation", "test")] == [15_250, 3_100, 5_500]
    assert data.load("test")["label"][:].count(42) == 1_000
