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


@pytest.fixture
def module(write):
    """Return a function that builds a DataModule of the content of a JSON file."""

    def make(content, name="data_oos_plus.json", **arguments):
        return CLINC150DataModule(str(write({name: json.dumps(content)}) / name), TINY_BERT, **arguments)

    return make


def of(rows):
    return {"train": rows, "val": [], "test": []}


def test_canonical_labels():
    assert len(set(CANONICAL)) == len(CANONICAL) == 151
    assert CANONICAL[0] == "restaurant_reviews"
    assert CANONICAL.index("oos") == 42
    assert sorted(CANONICAL) != CANONICAL


@pytest.mark.parametrize("as_folder", [False, True])
def test_file_or_its_folder(clinc_file, as_folder):
    data = CLINC150DataModule(str(clinc_file.parent if as_folder else clinc_file), TINY_BERT)
    data.setup("fit")
    data.setup("test")
    sizes = [len(data.load(split)) for split in ("train", "validation", "test", "predict")]
    assert sizes == [12 * 4 + 6 * 4, 12 * 2 + 6 * 2, 12 * 2 + 6 * 2, 12 * 2 + 6 * 2]


def test_out_of_scope_examples_come_last(clinc_file):
    rows = clinc_rows()
    split = CLINC150DataModule(str(clinc_file), TINY_BERT).load("test")
    assert split["text"][:] == [text for text, _ in rows["test"] + rows["oos_test"]]
    assert [LABELS[i] for i in split["label"]] == [intent for _, intent in rows["test"] + rows["oos_test"]]


def test_no_out_of_scope_examples(module):
    data = module({"train": [["hello", "greet"]], "val": [["hi", "greet"]], "test": [["hi", "greet"]]})
    assert [len(data.load(split)) for split in ("train", "validation", "test")] == [1, 1, 1]


def test_other_intents_are_sorted(module):
    assert module(of([["bye", "leave"], ["what", "oos"], ["hello", "greet"]])).label_names == [
        "greet",
        "leave",
        "oos",
    ]


def test_subset_of_the_intents_keeps_their_order(module):
    data = module(of([["move my money", "transfer"], ["what", "oos"], ["a table for two", "restaurant_reservation"]]))
    assert data.label_names == CANONICAL
    assert [CANONICAL[i] for i in data.load("train")["label"]] == ["transfer", "oos", "restaurant_reservation"]


@pytest.mark.parametrize("variant", ["small", "imbalanced"])
def test_file_of_each_variant(write, variant):
    folder = write(
        {
            "data_oos_plus.json": json.dumps(of([["a", "plus"]])),
            f"data_{variant}.json": json.dumps(of([["a", variant]])),
        }
    )
    assert CLINC150DataModule(str(folder), TINY_BERT).label_names == ["plus"]
    assert CLINC150DataModule(str(folder), TINY_BERT, config_name=variant).label_names == [variant]


@pytest.mark.parametrize(("variant", "name"), [("plus", "data_oos_plus.json"), ("small", "data_small.json")])
def test_missing_file(write, variant, name):
    folder = write({"data_full.json": "{}"})
    with pytest.raises(ValueError, match=re.escape(f"data.path: '{folder}' has no {name}")):
        CLINC150DataModule(str(folder), TINY_BERT, config_name=variant).setup("fit")


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_missing_key(module, missing):
    rows = clinc_rows()
    del rows[missing]
    with pytest.raises(ValueError, match=r"data_oos_plus\.json' is not in CLINC150's layout \(keys train, val, test"):
        module(rows).setup("fit")


@pytest.mark.parametrize("content", [[["hello", "greet"]], "hello", None])
def test_json_in_another_layout(module, content):
    with pytest.raises(ValueError, match="is not in CLINC150's layout"):
        module(content).setup("fit")


@pytest.mark.parametrize("row", ["hello", ["hello"], ["hello", "greet", 1], {"text": "hello"}, None, ["hello", ["a"]]])
@pytest.mark.parametrize("key", ["train", "oos_train"])
def test_malformed_row(module, row, key):
    rows = {**of([]), key: [["hello", "greet"], row]}
    with pytest.raises(ValueError, match=r"data_oos_plus\.json .*, row 2: expected \[text, intent\], got "):
        module(rows).setup("fit")


@pytest.mark.parametrize("key", ["train", "oos_test"])
@pytest.mark.parametrize("content", [None, 3])
def test_key_without_a_list(module, key, content):
    with pytest.raises(ValueError, match=rf"data_oos_plus\.json.*{key}"):
        module({**of([["hello", "greet"]]), key: content}).setup("fit")


@pytest.mark.parametrize("text", ["", " ", None, 3])
def test_row_without_text(module, text):
    with pytest.raises(ValueError, match=r"\(train\), row 2: no text"):
        module(of([["hello", "greet"], [text, "greet"]])).setup("fit")


def test_invalid_json(write):
    folder = write({"data_oos_plus.json": '{"train": [],\n "val": [}'})
    with pytest.raises(ValueError, match=r"data_oos_plus\.json, line 2, column 10: not JSON"):
        CLINC150DataModule(str(folder), TINY_BERT).setup("fit")


@pytest.mark.skipif(REAL is None, reason="LIGHTNING_KD_CLINC150 is not set to a folder with data_oos_plus.json")
def test_sizes_of_the_release():
    data = CLINC150DataModule(str(Path(REAL)), TINY_BERT)
    assert data.label_names == CANONICAL
    assert [len(data.load(split)) for split in ("train", "validation", "test")] == [15_250, 3_100, 5_500]
    assert data.load("test")["label"][:].count(42) == 1_000
