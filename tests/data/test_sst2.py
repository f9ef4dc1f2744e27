"""SST-2 in GLUE's layout."""

import pytest

from lightning_kd import SST2DataModule
from tests.helpers import TINY_BERT

GLUE = {
    "train.tsv": 'sentence\tlabel\nhide new secretions \t0\n"good " , \'s film \t1\n',
    "dev.tsv": "sentence\tlabel\na charming journey . \t1\n",
    "test.tsv": 'index\tsentence\n0\tuneasy mishmash of styles .\n1\ta " good " one\n',
}


def test_splits(write):
    data = SST2DataModule(str(write(GLUE)), TINY_BERT)
    assert data.label_names == ["negative", "positive"]
    assert data.load("train").to_dict() == {"text": ["hide new secretions ", '"good " , \'s film '], "label": [0, 1]}
    assert data.load("validation").to_dict() == {"text": ["a charming journey . "], "label": [1]}
    with pytest.raises(ValueError, match=r"test split .* no labels.*"):
        data.setup("test")
    data.setup("predict")
    assert data.texts() == {"sentence": ["uneasy mishmash of styles .", 'a " good " one']}


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("train.tsv", "sentence\tlabel\nfine\t0\n", 0),
        ("train.tsv", "sentence\tlabel\nfine\t1\n", 1),
        ("train.jsonl", '{"sentence": "fine", "label": "positive"}', 1),
    ],
)
def test_labels_if_only_one_occurs(write, name, content, label):
    data = SST2DataModule(str(write({name: content})), TINY_BERT)
    assert data.label_names == ["negative", "positive"]
    assert data.load("train")["label"][:] == [label]
