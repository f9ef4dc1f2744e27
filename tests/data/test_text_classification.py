"""Texts with labels from local files: what is read, and what is refused with which words."""

import pytest

from lightning_kd import TextClassificationDataModule
from tests.helpers import TINY_BERT

TRAIN = "text,label\ngoodbye,leave\nhello,greet\ngood morning,greet\n"
LABELED = {"train.csv": TRAIN, "validation.csv": "text,label\nbye,leave\n", "test.csv": "text,label\nhi,greet\n"}


@pytest.fixture
def module(write):
    """Makes a DataModule of files; other arguments go to its constructor."""

    def make(files, **arguments):
        return TextClassificationDataModule(str(write(files)), TINY_BERT, **arguments)

    return make


def load_split(module, split):
    return module.load(split).to_dict()


def test_folder_of_csv_files_has_its_labels_in_alphabetical_order(module):
    data = module(LABELED)
    assert data.label_names == ["greet", "leave"]
    assert load_split(data, "train") == {"text": ["goodbye", "hello", "good morning"], "label": [1, 0, 0]}
    assert load_split(data, "validation") == {"text": ["bye"], "label": [1]}
    assert load_split(data, "test") == {"text": ["hi"], "label": [0]}
    assert load_split(data, "predict") == {"text": ["hi"]}


def test_label_that_only_the_test_split_has(module):
    data = module({**LABELED, "test.csv": "text,label\nwhat,ask\n"})
    assert data.label_names == ["ask", "greet", "leave"]


def test_label_names_before_setup_are_those_after(module):
    data = module(LABELED)
    before = data.label_names
    data.setup("fit")
    assert data.label_names == before == ["greet", "leave"]


def test_label_names_are_none_without_labels(module):
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
def test_neither_one_nor_two_text_columns(module, columns):
    with pytest.raises(ValueError, match=r"data\.text_columns: must be one or two columns, got"):
        module(LABELED, text_columns=columns)


def test_missing_text_column_names_those_there_are(module):
    with pytest.raises(ValueError, match=r"data\.text_columns: .* has no column 'review'; it has 'text', 'label'$"):
        module(LABELED, text_columns=["review"]).setup("fit")


def test_missing_label_column_is_named(module):
    with pytest.raises(ValueError, match=r"data\.label_column: .*'intent'"):
        module(LABELED, label_column="intent").setup("fit")


@pytest.mark.parametrize("blank", ['""', "  "])
def test_blank_text_names_the_row(module, blank):
    data = module({**LABELED, "validation.csv": f"text,label\nbye,leave\n{blank},greet\n"})
    with pytest.raises(ValueError, match=r"\(validation\), row 2: no text in column 'text'"):
        data.setup("fit")


@pytest.mark.parametrize("text", ["null", "3", "[]"])
def test_text_that_is_no_string_names_the_row(module, text):
    with pytest.raises(ValueError, match=r"\(train\), row 1: no text in column 'text'"):
        module({"train.jsonl": f'{{"text": {text}, "label": "a"}}\n'}).setup("fit")


@pytest.mark.parametrize("label", ["", "-1"])
def test_missing_label_names_the_row(module, label):
    data = module({**LABELED, "train.csv": TRAIN + f"what is this,{label}\n"})
    with pytest.raises(ValueError, match=rf"\(train\), row 4: no label \('{label}'\); .*data\.allow_unlabeled=true"):
        data.setup("fit")


@pytest.mark.parametrize("label", ["", "-1"])
def test_unlabeled_training_rows_on_request(module, label):
    data = module({**LABELED, "train.csv": TRAIN + f"what is this,{label}\n"}, allow_unlabeled=True)
    assert data.label_names == ["greet", "leave"]
    assert load_split(data, "train")["label"] == [1, 0, 0, -100]
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert sorted(batch["labels"].tolist()) == [-100, 0, 0, 1]


@pytest.mark.parametrize("train", ["text\nhello\nbye\n", "text,label\nhello,\nbye,\n"])
def test_training_split_without_labels_on_request(module, train):
    data = module({**LABELED, "train.csv": train}, allow_unlabeled=True)
    assert load_split(data, "train")["label"] == [-100, -100]
    assert data.label_names == ["greet", "leave"]
    with pytest.raises(ValueError, match="no labels"):
        module({**LABELED, "train.csv": train}).setup("fit")


def test_rows_to_score_need_labels_in_any_case(module):
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


def test_missing_validation_split_says_what_to_add(module):
    with pytest.raises(ValueError, match=r"has no validation split; add a file named validation\.csv"):
        module({"train.csv": TRAIN}).setup("fit")


def test_unlabeled_test_split_is_predicted_but_not_scored(module):
    data = module({**LABELED, "test.csv": "text\nhi\nhello\n"})
    with pytest.raises(ValueError, match=r"test split .* no labels.*; .* `predict`"):
        data.setup("test")
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert len(batch["input_ids"]) == 2
    assert "labels" not in batch


@pytest.mark.parametrize("labels", [(-1, -1), ("", "")])
def test_test_split_of_missing_labels_is_unlabeled(module, labels):
    data = module({**LABELED, "test.csv": "text,label\nhi,{}\nhello,{}\n".format(*labels)})
    assert data.label_names == ["greet", "leave"]
    with pytest.raises(ValueError, match="`predict`"):
        data.setup("test")
    assert load_split(data, "predict") == {"text": ["hi", "hello"]}


def test_file_in_place_of_a_folder(write):
    path = write(LABELED) / "test.csv"
    data = TextClassificationDataModule(str(path), TINY_BERT)
    data.setup("test")
    assert load_split(data, "test") == {"text": ["hi"], "label": [0]}
    with pytest.raises(ValueError, match="no train split"):
        data.setup("fit")
