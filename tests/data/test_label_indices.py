"""Labels in files and their class indices."""

import re

import pytest

from lightning_kd.data.label_indices import index_labels, infer_label_names


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        (["ham", "spam", "eggs"], ["eggs", "ham", "spam"], [1, 2, 0]),
        (["3", "2", 0], ["0", "1", "2", "3"], [3, 2, 0]),
        (["1", "b", "0"], ["0", "1", "b"], [1, 2, 0]),
        ([1.0, 0.0], ["0", "1"], [1, 0]),
        ([1.5, 0.2], ["0.2", "1.5"], [1, 0]),  # scores are regression targets, which indices would truncate
        (["a", "", None, "-1", -1], ["a"], [0, -100, -100, -100, -100]),
    ],
)
def test_names_and_indices(labels, names, indices):
    assert infer_label_names([labels[:1], labels[1:]]) == names
    assert index_labels(labels, names, "here", allow_unlabeled=True) == indices


def test_names_or_indices():
    assert index_labels(["b", "a", 1, "0"], ["a", "b"], "here") == [1, 0, 1, 0]


@pytest.mark.parametrize("label", [-1, "-1", "", None])
def test_missing_label(label):
    with pytest.raises(ValueError, match=r"^here, row 2: no label \("):
        index_labels(["a", label], ["a", "b"], "here")


@pytest.mark.parametrize(
    ("names", "known"), [("abcdefg", "'a', 'b', 'c', 'd', 'e', ..."), ("abcde", "'a', 'b', 'c', 'd', 'e'")]
)
@pytest.mark.parametrize("label", ["h", 7, -2, ["a", "b"]])
def test_unknown_label(label, names, known):
    message = f"here, row 2: unknown label {label!r}; known are {known}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        index_labels(["a", label], list(names), "here")


def test_other_types_are_no_labels():
    assert infer_label_names([["a", ["a", "b"]]]) == ["a"]


def test_a_column_of_ids():
    with pytest.raises(ValueError, match=r"^data\.label_column: class indices must be less .*, got 10{12};"):
        infer_label_names([[0, "1000000000000"]])
