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
        (["1.5", "0.2"], ["0.2", "1.5"], [1, 0]),
        (["a", "", None, "-1", -1], ["a"], [0, -100, -100, -100, -100]),
    ],
)
def test_names_and_indices(labels, names, indices):
    assert infer_label_names([labels[:1], labels[1:]]) == names
    assert index_labels(labels, names, "here", allow_unlabeled=True) == indices


def test_names_or_indices():
    assert index_labels(["b", "a", 1, "0"], ["a", "b"], "here") == [1, 0, 1, 0]


@pytest.mark.parametrize("label", [1.5, float("nan"), float("inf")])
def test_number_that_is_no_class(label):
    assert infer_label_names([["a", label]]) == ["a"]
    with pytest.raises(ValueError, match=rf"^here, row 2: label {label} is no class; write a name or an integer$"):
        index_labels(["a", label], ["a"], "here")


@pytest.mark.parametrize(("labels", "is_valid"), [([0, 999], True), ([0, 1000], False), ([*range(200), 1999], True)])
def test_integers_too_large_for_classes(labels, is_valid):
    if is_valid:
        assert len(infer_label_names([labels])) == labels[-1] + 1
        return
    message = rf"^data\.label_column: the largest label is {labels[-1]}, but only 2 different integers occur"
    with pytest.raises(ValueError, match=message):
        infer_label_names([labels])


def test_more_than_twenty_scores():
    scores = [f"{index}.5" for index in range(21)]
    infer_label_names([scores[1:]])
    infer_label_names([[*scores, "a"]])
    with pytest.warns(UserWarning, match=r"^data\.label_column: all 21 labels are numbers with a fraction \(0\.5, "):
        infer_label_names([scores])


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
