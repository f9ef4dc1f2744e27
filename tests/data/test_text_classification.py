"""Labeled texts from local files and the hub, and files to predict."""

import datasets
import pytest

from lightning_kd import CLINC150DataModule, SST2DataModule, TextClassificationDataModule
from tests.helpers import TINY_BERT

TRAIN = "text,label\ngoodbye,leave\nhello,greet\ngood morning,greet\n"
LABELED = {"train.csv": TRAIN, "validation.csv": "text,label\nbye,leave\n", "test.csv": "text,label\nhi,greet\n"}


@pytest.fixture
def module(write):
    """Return a function that builds a DataModule of files, with the path of a file to predict in their folder."""

    def make(files, predict=None, **arguments):
        folder = write(files)
        predict_path = None if predict is None else str(folder / predict)
        return TextClassificationDataModule(str(folder), TINY_BERT, predict_path=predict_path, **arguments)

    return make


def load_split(module, split):
    return module.load(split).to_dict()


def test_folder_of_csv_files(module):
    data = module(LABELED)
    assert data.label_names == ["greet", "leave"]  # before setup
    data.setup("fit")
    assert data.label_names == ["greet", "leave"]
    assert load_split(data, "train") == {"text": ["goodbye", "hello", "good morning"], "label": [1, 0, 0]}
    assert load_split(data, "validation") == {"text": ["bye"], "label": [1]}
    assert load_split(data, "test") == {"text": ["hi"], "label": [0]}
    assert load_split(data, "predict") == {"text": ["hi"]}


def labeled_files(train, validation):
    """Return tables of texts with labels of one letter."""
    splits = {"train": train, "validation": validation}
    return {f"{name}.csv": "text,label\n" + "".join(f"hi,{x}\n" for x in labels) for name, labels in splits.items()}


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ("aa", "a", "all examples in '.*' have the label 'a', so there is nothing to learn; "),
        (
            "ab",
            "cd",
            r"2 of 2 labels of the validation split of '.*' are missing in the training split \('c', 'd'\); use",
        ),
    ],
)
def test_labels_from_which_nothing_can_be_learned(module, train, validation, message):
    data = module(labeled_files(train, validation))
    data.setup("validate")
    with pytest.raises(ValueError, match=rf"^data\.label_column: {message}"):
        data.setup("fit")


def test_validation_label_that_the_training_split_lacks(module):
    data = module(labeled_files("ab", "ac"))
    with pytest.warns(
        UserWarning, match=r"1 of 2 labels of the validation .* missing in the training split \('c'\); the"
    ):
        data.setup("fit")


def test_label_of_the_test_split_only(module):
    data = module({**LABELED, "test.csv": "text,label\nwhat,ask\n"})
    assert data.label_names == ["ask", "greet", "leave"]


def test_no_labels(module):
    assert module({"test.csv": "text\nhello\n"}).label_names is None


def test_integer_labels(module):
    data = module({"train.csv": "text,label\nhello,2\nbye,0\n"})
    assert data.label_names == ["0", "1", "2"]
    assert load_split(data, "train")["label"] == [2, 0]


def test_other_column_names(module):
    files = {"train.jsonl": '{"review": "fine", "stars": "good", "id": 7}\n'}
    data = module(files, text_columns=["review"], label_column="stars")
    assert data.label_names == ["good"]
    assert load_split(data, "train") == {"text": ["fine"], "label": [0]}


def test_pairs_of_texts(module, tokenizer):
    data = module({"test.tsv": "a\tb\tlabel\nhello\tgood morning\tsame\n"}, text_columns=["a", "b"])
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch["input_ids"][0].tolist() == tokenizer("hello", "good morning")["input_ids"]
    assert set(batch["token_type_ids"][0].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_columns": []}, r"data\.text_columns: must be one or two columns, got"),
        ({"text_columns": ["a", "b", "c"]}, r"data\.text_columns: must be one or two columns, got"),
        ({"text_columns": ["review"]}, r"data\.text_columns: .* has no column 'review'; it has 'text', 'label'$"),
        ({"label_column": "intent"}, r"data\.label_column: .*'intent'"),
        ({"allow_unlabeled": True, "validation_fraction": 0.5}, r"data\.validation_fraction: .*add a validation file"),
    ],
)
def test_invalid_arguments(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        module(LABELED, **arguments).setup("fit")


NO_TEXT = r"\({}\), row {}: no text in column 'text'"
NO_LABEL = r"\(train\), row 4: no label \('{}'\); .*data\.allow_unlabeled=true"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"validation.csv": 'text,label\nbye,leave\n"",greet\n'}, NO_TEXT.format("validation", 2)),
        ({"validation.csv": "text,label\nbye,leave\n  ,greet\n"}, NO_TEXT.format("validation", 2)),
        ({"train.csv": TRAIN + "what is this,\n"}, NO_LABEL.format("")),
        ({"train.csv": TRAIN + "what is this,-1\n"}, NO_LABEL.format("-1")),
        ({"train.csv": "text,label\n"}, r"train.* empty"),
        ({"train.csv": ""}, r"train.* empty"),
    ],
)
def test_invalid_tables(module, files, message):
    with pytest.raises(ValueError, match=message):
        module({**LABELED, **files}).setup("fit")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *[("train.jsonl", f'{{"text": {x}, "label": "a"}}\n', NO_TEXT.format("train", 1)) for x in ("null", "3", "[]")],
        ("train.jsonl", "", r"train.* empty"),
        ("train.json", "[]", r"train.* empty"),
        ("train.csv", TRAIN, r"has no validation split; add a file named validation\.csv"),
    ],
)
def test_invalid_training_split(module, name, content, message):
    with pytest.raises(ValueError, match=message):
        module({name: content}).setup("fit")


@pytest.mark.parametrize("label", ["", "-1"])
def test_unlabeled_training_examples(module, label):
    data = module({**LABELED, "train.csv": TRAIN + f"what is this,{label}\n"}, allow_unlabeled=True)
    assert data.label_names == ["greet", "leave"]
    assert load_split(data, "train")["label"] == [1, 0, 0, -100]
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert sorted(batch["labels"].tolist()) == [-100, 0, 0, 1]


@pytest.mark.parametrize("train", ["text\nhello\nbye\n", "text,label\nhello,\nbye,\n"])
def test_unlabeled_training_split(module, train):
    data = module({**LABELED, "train.csv": train}, allow_unlabeled=True)
    assert load_split(data, "train")["label"] == [-100, -100]
    assert data.label_names == ["greet", "leave"]
    with pytest.raises(ValueError, match="no labels"):
        module({**LABELED, "train.csv": train}).setup("fit")


def test_evaluation_examples_need_labels(module):
    data = module({**LABELED, "validation.csv": "text,label\nbye,leave\nhm,\n"}, allow_unlabeled=True)
    with pytest.raises(ValueError, match=r"\(validation\), row 2: no label"):
        data.setup("fit")


@pytest.mark.parametrize("test", ["text\nhi\nhello\n", "text,label\nhi,-1\nhello,-1\n", "text,label\nhi,\nhello,\n"])
def test_unlabeled_test_split(module, test):
    data = module({**LABELED, "test.csv": test})
    assert data.label_names == ["greet", "leave"]
    with pytest.raises(ValueError, match=r"test split .* no labels.*; .* `predict`"):
        data.setup("test")
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert len(batch["input_ids"]) == 2
    assert "labels" not in batch


def test_file_instead_of_a_folder(write):
    path = write(LABELED) / "test.csv"
    data = TextClassificationDataModule(str(path), TINY_BERT)
    data.setup("test")
    assert load_split(data, "test") == {"text": ["hi"], "label": [0]}
    with pytest.raises(ValueError, match="no train split"):
        data.setup("fit")


# ---- files to predict

ONE_SPLIT = {"train.csv": "text,label\nhello,greet\ngoodbye,leave\n"}


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
    data = module({**ONE_SPLIT, name: content}, name)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert data.texts() == {"text": ["hello there", "good morning to you"]}
    assert "labels" not in batch
    rows = zip(batch["row_id"].tolist(), batch["input_ids"], batch["attention_mask"], strict=True)
    for row, ids, mask in rows:
        assert ids[mask.bool()].tolist() == tokenizer(data.texts()["text"][row])["input_ids"]


@pytest.mark.parametrize(
    ("columns", "name", "content", "texts"),
    [
        (["review"], "rows.txt", "hello there\n", {"review": ["hello there"]}),
        (["a", "b"], "rows.csv", "b,a\nbye,goodbye\n", {"a": ["goodbye"], "b": ["bye"]}),
    ],
)
def test_other_columns_to_predict(module, columns, name, content, texts):
    data = module({"train.csv": "review,a,b,label\nfine,hello,hi,same\n", name: content}, name, text_columns=columns)
    data.setup("predict")
    assert data.texts() == texts


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (None, {}, "predict_path"),
        ("none.txt", {}, r"data\.predict_path: .*none\.txt"),
        ("rows.txt", {"rows.txt": "\n"}, r"rows\.txt.* empty"),
        ("rows.csv", {"rows.csv": "text\n"}, r"rows\.csv.* empty"),
        ("rows.csv", {"rows.csv": "id,words\n1,hello\n"}, r"rows\.csv has no column 'text'; it has 'id', 'words'"),
        ("rows.csv", {"rows.csv": "id,text\n1,hello\n2,\n"}, r"rows\.csv, row 2: no text in column 'text'"),
    ],
)
def test_invalid_file_to_predict(module, name, files, message):
    with pytest.raises(ValueError, match=message):
        module({**ONE_SPLIT, **files}, name).setup("predict")


# ---- the hub, with a fake load_dataset


@pytest.fixture
def hub(monkeypatch):
    """Return a function that puts a data set on the hub and returns the list of requests."""

    def put(names, column="text", label="label", **splits):
        classes = datasets.ClassLabel(names=names) if names else datasets.Value("string")
        features = datasets.Features({column: datasets.Value("string"), label: classes})
        tables = {
            split: datasets.Dataset.from_list([{column: text, label: y} for text, y in rows], features)
            for split, rows in splits.items()
        }
        requests = []

        def load_dataset(*arguments, revision):
            requests.append((*arguments, revision))
            return datasets.DatasetDict(tables)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return requests

    return put


def test_hub_data_set_is_loaded_once(hub):
    requests = hub(["z", "a"], train=[("hello", 0), ("bye", 1)], validation=[("bye", 1)])
    data = TextClassificationDataModule("someone/reviews", TINY_BERT, config_name="small", revision="v2")
    assert data.label_names == ["z", "a"]
    data.setup("fit")
    assert requests == [("someone/reviews", "small", "v2")]


@pytest.mark.parametrize(
    ("module", "column", "label", "request_"),
    [
        (CLINC150DataModule, "text", "intent", ("clinc/clinc_oos", "plus", None)),
        (SST2DataModule, "sentence", "label", ("nyu-mll/glue", "sst2", None)),
    ],
)
def test_default_hub_ids(hub, module, column, label, request_):
    requests = hub(["a", "b"], column, label, train=[("hello", 1), ("hi", 0)], validation=[("bye", 0)])
    data = module(tokenizer=TINY_BERT)
    data.setup("fit")
    assert requests == [request_]
    assert data.load("train").to_dict() == {"text": ["hello", "hi"], "label": [1, 0]}


@pytest.mark.parametrize(
    ("classes", "labels", "names", "indices"),
    [
        (["z", "m", "a"], [0, 1, 2], ["z", "m", "a"], [0, 1, 2]),
        (["1", "2", "3"], [0, 1, 2], ["1", "2", "3"], [0, 1, 2]),
        (["2", "1", "0"], [0, 1, 2], ["2", "1", "0"], [0, 1, 2]),
        (None, ["z", "a", "m"], ["a", "m", "z"], [2, 0, 1]),
    ],
)
def test_label_order_of_the_hub(hub, classes, labels, names, indices):
    hub(classes, train=list(zip(["one", "two", "three"], labels, strict=True)))
    data = TextClassificationDataModule("someone/reviews", TINY_BERT)
    assert data.label_names == names
    assert data.load("train")["label"][:] == indices


def test_unlabeled_test_split_of_the_hub(hub):
    # as in GLUE
    labeled = [("good", 1), ("bad", 0)]
    hub(["negative", "positive"], "sentence", train=labeled, validation=labeled, test=[("so so", -1)])
    data = SST2DataModule(tokenizer=TINY_BERT)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"test split .* no labels.*; .* `predict`"):
        data.setup("test")
    data.setup("predict")
    assert data.texts() == {"sentence": ["so so"]}


def test_missing_label_of_the_hub(hub):
    hub(["a", "b"], train=[("hello", 0), ("bye", -1)])
    with pytest.raises(ValueError, match=r"\(train\), row 2: no label \(-1\)"):
        TextClassificationDataModule("someone/reviews", TINY_BERT).setup("fit")


def test_missing_columns_of_the_hub(hub):
    hub(["a"], "sentence", train=[("hello", 0)])
    with pytest.raises(ValueError, match=r"'text'; it has 'sentence', 'label'"):
        TextClassificationDataModule("someone/reviews", TINY_BERT).setup("fit")
    with pytest.raises(ValueError, match=r"data\.label_column: .* 'intent'; it has 'sentence', 'label'"):
        TextClassificationDataModule("someone/reviews", TINY_BERT, ["sentence"], "intent").setup("fit")


@pytest.mark.parametrize("path", ["no/where", "trian.csv", "rows/trian.csv"])
def test_hub_unavailable_or_misspelled_path(path):
    # without the fake: tests run with HF_HUB_OFFLINE=1
    with pytest.raises(OSError, match=rf"data\.path: '{path}' is neither .* give a local path$"):
        TextClassificationDataModule(path, TINY_BERT).setup("fit")


def test_hub_error_without_message(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match=r"data\.path: 'a/b' .* give a local path$"):
        TextClassificationDataModule("a/b", TINY_BERT).setup("fit")
