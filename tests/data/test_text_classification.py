"""Labeled texts from local files and the hub, and files to predict."""

import datasets
import pytest

from lightning_kd import CLINC150DataModule, SST2DataModule, TextClassificationDataModule
from tests.helpers import TINY_BERT

TRAIN = "text,label\ngoodbye,leave\nhello,greet\ngood morning,greet\n"
LABELED = {"train.csv": TRAIN, "validation.csv": "text,label\nbye,leave\n", "test.csv": "text,label\nhi,greet\n"}


@pytest.fixture
def module(write):
    """Return a function that builds a DataModule of files."""

    def make(files, **arguments):
        return TextClassificationDataModule(str(write(files)), TINY_BERT, **arguments)

    return make


def load_split(module, split):
    return module.load(split).to_dict()


def test_folder_of_csv_files(module):
    data = module(LABELED)
    assert data.label_names == ["greet", "leave"]
    assert load_split(data, "train") == {"text": ["goodbye", "hello", "good morning"], "label": [1, 0, 0]}
    assert load_split(data, "validation") == {"text": ["bye"], "label": [1]}
    assert load_split(data, "test") == {"text": ["hi"], "label": [0]}
    assert load_split(data, "predict") == {"text": ["hi"]}


def test_label_of_the_test_split_only(module):
    data = module({**LABELED, "test.csv": "text,label\nwhat,ask\n"})
    assert data.label_names == ["ask", "greet", "leave"]


def test_label_names_before_setup(module):
    data = module(LABELED)
    before = data.label_names
    data.setup("fit")
    assert data.label_names == before == ["greet", "leave"]


def test_no_labels(module):
    assert module({"test.csv": "text\nhello\n"}).label_names is None


def test_integer_labels(module):
    data = module({"train.csv": "text,label\nhello,2\nbye,0\n"})
    assert data.label_names == ["0", "1", "2"]
    assert load_split(data, "train")["label"] == [2, 0]


def test_other_column_names(module):
    data = module(
        {"train.jsonl": '{"review": "fine", "stars": "good", "id": 7}\n'},
        text_columns=["review"],
        label_column="stars",
    )
    assert data.label_names == ["good"]
    assert load_split(data, "train") == {"text": ["fine"], "label": [0]}


def test_pairs_of_texts(module, tokenizer):
    data = module({"test.tsv": "a\tb\tlabel\nhello\tgood morning\tsame\n"}, text_columns=["a", "b"])
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch["input_ids"][0].tolist() == tokenizer("hello", "good morning")["input_ids"]
    assert set(batch["token_type_ids"][0].tolist()) == {0, 1}


@pytest.mark.parametrize("columns", [[], ["a", "b", "c"]])
def test_number_of_text_columns(module, columns):
    with pytest.raises(ValueError, match=r"data\.text_columns: must be one or two columns, got"):
        module(LABELED, text_columns=columns)


def test_missing_text_column(module):
    with pytest.raises(ValueError, match=r"data\.text_columns: .* has no column 'review'; it has 'text', 'label'$"):
        module(LABELED, text_columns=["review"]).setup("fit")


def test_missing_label_column(module):
    with pytest.raises(ValueError, match=r"data\.label_column: .*'intent'"):
        module(LABELED, label_column="intent").setup("fit")


@pytest.mark.parametrize("blank", ['""', "  "])
def test_blank_text(module, blank):
    data = module({**LABELED, "validation.csv": f"text,label\nbye,leave\n{blank},greet\n"})
    with pytest.raises(ValueError, match=r"\(validation\), row 2: no text in column 'text'"):
        data.setup("fit")


@pytest.mark.parametrize("text", ["null", "3", "[]"])
def test_text_that_is_not_a_string(module, text):
    with pytest.raises(ValueError, match=r"\(train\), row 1: no text in column 'text'"):
        module({"train.jsonl": f'{{"text": {text}, "label": "a"}}\n'}).setup("fit")


@pytest.mark.parametrize("label", ["", "-1"])
def test_missing_label(module, label):
    data = module({**LABELED, "train.csv": TRAIN + f"what is this,{label}\n"})
    with pytest.raises(ValueError, match=rf"\(train\), row 4: no label \('{label}'\); .*data\.allow_unlabeled=true"):
        data.setup("fit")


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
    with pytest.raises(ValueError, match=r"data\.validation_fraction: .*add a validation file"):
        module(LABELED, allow_unlabeled=True, validation_fraction=0.5)


@pytest.mark.parametrize(
    ("name", "content"), [("train.csv", "text,label\n"), ("train.csv", ""), ("train.jsonl", ""), ("train.json", "[]")]
)
def test_empty_split(module, name, content):
    with pytest.raises(ValueError, match=r"train.* empty"):
        module({name: content, "validation.csv": LABELED["validation.csv"]}).setup("fit")


def test_missing_validation_split(module):
    with pytest.raises(ValueError, match=r"has no validation split; add a file named validation\.csv"):
        module({"train.csv": TRAIN}).setup("fit")


def test_unlabeled_test_split(module):
    data = module({**LABELED, "test.csv": "text\nhi\nhello\n"})
    with pytest.raises(ValueError, match=r"test split .* no labels.*; .* `predict`"):
        data.setup("test")
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert len(batch["input_ids"]) == 2
    assert "labels" not in batch


@pytest.mark.parametrize("labels", [(-1, -1), ("", "")])
def test_test_split_with_missing_labels_only(module, labels):
    data = module({**LABELED, "test.csv": "text,label\nhi,{}\nhello,{}\n".format(*labels)})
    assert data.label_names == ["greet", "leave"]
    with pytest.raises(ValueError, match="`predict`"):
        data.setup("test")
    assert load_split(data, "predict") == {"text": ["hi", "hello"]}


def test_file_instead_of_a_folder(write):
    path = write(LABELED) / "test.csv"
    data = TextClassificationDataModule(str(path), TINY_BERT)
    data.setup("test")
    assert load_split(data, "test") == {"text": ["hi"], "label": [0]}
    with pytest.raises(ValueError, match="no train split"):
        data.setup("fit")


# ---- files to predict

ONE_SPLIT = {"train.csv": "text,label\nhello,greet\ngoodbye,leave\n"}


@pytest.fixture
def predict_module(write):
    """Return a function that builds a DataModule with a file to predict."""

    def make(name=None, content="", **arguments):
        folder = write({**ONE_SPLIT, **({} if name is None else {f"new/{name}": content})})
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
def test_file_to_predict(predict_module, tokenizer, name, content):
    data = predict_module(name, content)
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


def test_file_of_pairs_to_predict(write):
    folder = write({"train.csv": "a,b,label\nhello,hi,same\n", "new/rows.csv": "b,a\nbye,goodbye\n"})
    arguments = {"text_columns": ["a", "b"], "predict_path": str(folder / "new" / "rows.csv")}
    data = TextClassificationDataModule(str(folder), TINY_BERT, **arguments)
    data.setup("predict")
    assert data.texts() == {"a": ["goodbye"], "b": ["bye"]}


def test_missing_file_to_predict(predict_module, tmp_path):
    data = TextClassificationDataModule(str(predict_module().path), TINY_BERT, predict_path=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match=r"data\.predict_path: .*none\.txt"):
        data.setup("predict")


def test_missing_column_to_predict(predict_module):
    with pytest.raises(ValueError, match=r"rows\.csv has no column 'text'; it has 'id', 'words'"):
        predict_module("rows.csv", "id,words\n1,hello\n").setup("predict")


def test_blank_text_to_predict(predict_module):
    with pytest.raises(ValueError, match=r"rows\.csv, row 2: no text in column 'text'"):
        predict_module("rows.csv", "id,text\n1,hello\n2,\n").setup("predict")


@pytest.mark.parametrize(("name", "content"), [("rows.txt", "\n"), ("rows.csv", "text\n")])
def test_empty_file_to_predict(predict_module, name, content):
    with pytest.raises(ValueError, match=rf"{name}.* empty"):
        predict_module(name, content).setup("predict")


def test_neither_predict_path_nor_test_split(predict_module):
    with pytest.raises(ValueError, match="predict_path"):
        predict_module().setup("predict")


# ---- the hub, with a fake load_dataset


@pytest.fixture
def hub(monkeypatch):
    """Return a function that puts a data set on the hub and returns the list of requests."""

    def put(names, column="text", label="label", **splits):
        classes = datasets.ClassLabel(names=names) if names else datasets.Value("string")
        features = datasets.Features({column: datasets.Value("string"), label: classes})
        tables = {
            split: datasets.Dataset.from_dict(
                {column: [text for text, _ in rows], label: [y for _, y in rows]}, features
            )
            for split, rows in splits.items()
        }
        requests = []
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *arguments: requests.append(arguments) or datasets.DatasetDict(tables)
        )
        return requests

    return put


def test_hub_data_set_is_loaded_once(hub):
    requests = hub(["z", "a"], train=[("hello", 0)], validation=[("bye", 1)])
    data = TextClassificationDataModule("someone/reviews", TINY_BERT, config_name="small")
    assert data.label_names == ["z", "a"]
    data.setup("fit")
    assert requests == [("someone/reviews", "small")]


@pytest.mark.parametrize(
    ("module", "column", "label", "request_"),
    [
        (CLINC150DataModule, "text", "intent", ("clinc/clinc_oos", "plus")),
        (SST2DataModule, "sentence", "label", ("nyu-mll/glue", "sst2")),
    ],
)
def test_default_hub_ids(hub, module, column, label, request_):
    requests = hub(["a", "b"], column, label, train=[("hello", 1)], validation=[("bye", 0)])
    data = module(tokenizer=TINY_BERT)
    data.setup("fit")
    assert requests == [request_]
    assert data.load("train").to_dict() == {"text": ["hello"], "label": [1]}


@pytest.mark.parametrize("names", [["z", "m", "a"], ["1", "2", "3"], ["2", "1", "0"]])
def test_label_order_of_the_hub(hub, names):
    hub(names, train=[("one", 0), ("two", 1), ("three", 2)])
    data = TextClassificationDataModule("someone/reviews", TINY_BERT)
    assert data.label_names == names
    assert data.load("train")["label"][:] == [0, 1, 2]


def test_hub_labels_without_class_names(hub):
    hub(None, train=[("one", "z"), ("two", "a")], validation=[("three", "m")])
    data = TextClassificationDataModule("someone/reviews", TINY_BERT)
    assert data.label_names == ["a", "m", "z"]
    assert data.load("train")["label"][:] == [2, 0]


def test_unlabeled_test_split_of_the_hub(hub):
    # as in GLUE
    hub(["negative", "positive"], "sentence", train=[("good", 1)], validation=[("bad", 0)], test=[("so so", -1)])
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
    def unreachable(*_):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match=r"data\.path: 'a/b' .* give a local path$"):
        TextClassificationDataModule("a/b", TINY_BERT).setup("fit")
