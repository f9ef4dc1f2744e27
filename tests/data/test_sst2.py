"""SST-2 in GLUE's layout."""

import pytest

from lightning_kd import SST2DataModule
from tests.helpers import TINY_BERT

GLUE = {
    "train.tsv": 'sentence\tlabel\nhide new secretions \t0\n"good " , \'s film \t1\n',
    "dev.tsv": "sentence\tlabel\na charming journey . \t1\n",
    "test.tsv": 'index\tsentence\n0\tuneasy mishmash of styles .\n1\ta " good " one\n',
}


@pytest.fixture
def module(write):
    return SST2DataModule(str(write(GLUE)), TINY_BERT, batch_size=2)


def test_labels(module):
    assert module.label_names == ["negative", "positive"]
    assert module.load("train").to_dict() == {"text": ["hide new secretions ", '"good " , \'s film '], "label": [0, 1]}


@pytest.mark.parametrize("label", [0, 1])
def test_labels_if_only_one_occurs(write, label):
    data = SST2DataModule(str(write({"train.tsv": f"sentence\tlabel\nfine\t{label}\n"})), TINY_BERT)
    assert data.label_names == ["negative", "positive"]
    assert data.load("train")["label"][:] == [label]


def test_label_names(write):
    data = SST2DataModule(str(write({"train.jsonl": '{"sentence": "fine", "label": "positive"}'})), TINY_BERT)
    assert data.load("train")["label"][:] == [1]


def test_fit_and_validate(module):
    module.setup("fit")
    (train,) = module.train_dataloader()
    (validation,) = module.val_dataloader()
    assert sorted(zip(train["row_id"].tolist(), train["labels"].tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert validation["labels"].tolist() == [1]


def test_unlabeled_test_split(module):
    with pytest.raises(ValueError, match=r"test split .* no labels.*"):
        module.setup("test")
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    assert sorted(batch["row_id"].tolist()) == [0, 1]
    assert "labels" not in batch
    assert module.texts() == {"sentence": ["uneasy mishmash of styles .", 'a " good " one']}
