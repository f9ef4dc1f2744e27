"""Data sets of the hub. The hub itself cannot be reached here: ``load_dataset`` is the one thing that is faked."""

import datasets
import pytest

from lightning_kd import CLINC150DataModule, SST2DataModule, TextClassificationDataModule
from tests.helpers import TINY_BERT


@pytest.fixture
def hub(monkeypatch):
    """Puts a data set on the hub, given the names of its classes; returns the list of what was asked for."""

    def put(names, column="text", label="label", **splits):
        classes = datasets.ClassLabel(names=names) if names else datasets.Value("string")
        features = datasets.Features({column: datasets.Value("string"), label: classes})
        tables = {
            split: datasets.Dataset.from_dict(
                {column: [text for text, _ in rows], label: [y for _, y in rows]}, features
            )
            for split, rows in splits.items()
        }
        asked = []
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *arguments: asked.append(arguments) or datasets.DatasetDict(tables)
        )
        return asked

    return put


def test_path_and_configuration_are_asked_for_once(hub):
    asked = hub(["z", "a"], train=[("hello", 0)], validation=[("bye", 1)])
    data = TextClassificationDataModule("somebody/reviews", TINY_BERT, config_name="small")
    assert data.label_names == ["z", "a"]
    data.setup("fit")
    assert asked == [("somebody/reviews", "small")]


@pytest.mark.parametrize(
    ("module", "column", "label", "asked_for"),
    [
        (CLINC150DataModule, "text", "intent", ("clinc/clinc_oos", "plus")),
        (SST2DataModule, "sentence", "label", ("nyu-mll/glue", "sst2")),
    ],
)
def test_hub_is_the_default(hub, module, column, label, asked_for):
    asked = hub(["a", "b"], column, label, train=[("hello", 1)], validation=[("bye", 0)])
    data = module(tokenizer=TINY_BERT)
    data.setup("fit")
    assert asked == [asked_for]
    assert data.load("train").to_dict() == {"text": ["hello"], "label": [1]}


@pytest.mark.parametrize("names", [["z", "m", "a"], ["1", "2", "3"], ["2", "1", "0"]])
def test_classes_keep_the_order_of_the_hub(hub, names):
    hub(names, train=[("one", 0), ("two", 1), ("three", 2)])
    data = TextClassificationDataModule("somebody/reviews", TINY_BERT)
    assert data.label_names == names
    assert data.load("train")["label"][:] == [0, 1, 2]


def test_labels_without_classes_are_in_alphabetical_order(hub):
    hub(None, train=[("one", "z"), ("two", "a")], validation=[("three", "m")])
    data = TextClassificationDataModule("somebody/reviews", TINY_BERT)
    assert data.label_names == ["a", "m", "z"]
    assert data.load("train")["label"][:] == [2, 0]


def test_test_split_of_minus_one_is_unlabeled(hub):
    # GLUE's test splits on the hub are like this
    hub(["negative", "positive"], "sentence", train=[("good", 1)], validation=[("bad", 0)], test=[("so so", -1)])
    data = SST2DataModule(tokenizer=TINY_BERT)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"test split .* no labels.*; .* `predict`"):
        data.setup("test")
    data.setup("predict")
    assert data.texts() == {"sentence": ["so so"]}


def test_label_of_minus_one_among_others_names_the_row(hub):
    hub(["a", "b"], train=[("hello", 0), ("bye", -1)])
    with pytest.raises(ValueError, match=r"\(train\), row 2: no label \(-1\)"):
        TextClassificationDataModule("somebody/reviews", TINY_BERT).setup("fit")


def test_missing_columns_name_those_there_are(hub):
    hub(["a"], "sentence", train=[("hello", 0)])
    with pytest.raises(ValueError, match=r"'text'; it has 'sentence', 'label'"):
        TextClassificationDataModule("somebody/reviews", TINY_BERT).setup("fit")
    with pytest.raises(ValueError, match=r"data\.label_column: .* 'intent'; it has 'sentence', 'label'"):
        TextClassificationDataModule("somebody/reviews", TINY_BERT, ["sentence"], "intent").setup("fit")


@pytest.mark.parametrize("path", ["nobody/nothing", "trian.csv", "rows/trian.csv"])
def test_hub_out_of_reach_or_misspelt_path(path):
    # not faked: tests run with HF_HUB_OFFLINE=1
    with pytest.raises(OSError, match=rf"data\.path: '{path}' is neither .* give a local path$"):
        TextClassificationDataModule(path, TINY_BERT).setup("fit")


def test_error_without_words(monkeypatch):
    def unreachable(*_):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match=r"data\.path: 'a/b' .* give a local path$"):
        TextClassificationDataModule("a/b", TINY_BERT).setup("fit")
