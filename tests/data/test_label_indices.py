"""Labels in files and their class indices."""

import pytest

from lightning_kd.data.label_indices import index_labels, infer_label_names


def test_names_of_all_splits_are_sorted():
    assert infer_label_names([["ham", "spam"], ["eggs"]]) == ["eggs", "ham", "spam"]


def test_indices_from_zero_to_the_largest():
    assert infer_label_names([["10", "2"], [0]]) == [str(i) for i in range(11)]


def test_numbers_among_names_are_names():
    names = infer_label_names([["1", "b", "0"]])
    assert names == ["0", "1", "b"]
    assert index_labels(["b", "1", "0"], names, "here") == [2, 1, 0]


def test_missing_labels_are_not_names():
    assert infer_label_names([["a", "", None, "-1", -1]]) == ["a"]


def test_names_and_indices():
    assert index_labels(["b", "a", 1, "0"], ["a", "b"], "here") == [1, 0, 1, 0]


@pytest.mark.parametrize("label", [-1, "-1", "", None])
def test_missing_label(label):
    with pytest.raises(ValueError, match=r"^here, row 2: no label \("):
        index_labels(["a", label], ["a", "b"], "here")
    assert index_labels(["a", label], ["a", "b"], "here", allow_unlabeled=True) == [0, -100]


@pytest.mark.parametrize("label", ["c", 2, -2])
def test_unknown_label(label):
    with pytest.raises(ValueError, match=rf"^here, row 2: unknown label {label!r}; known are a, b$"):
        index_labels(["a", label], ["a", "b"], "here")


def test_long_list_of_known_labels():
    with pytest.raises(ValueError, match=r"known are a, b, c, d, e, \.\.\.$"):
        index_labels(["x"], list("abcdefg"), "here")


def test_fractions_are_not_class_indices():
    # scores such as 1.5 are regression targets; truncated to 1 they would be wrong labels
    assert infer_label_names([[1.5, 0.2]]) != ["0", "1"]


def test_whole_numbers_as_floats_are_indices():
    assert infer_label_names([[0.0, 1.0]]) == ["0", "1"]
    assert index_labels([1.0, 0.0], ["0", "1"], "here") == [1, 0]


def test_label_that_is_a_list():
    # multi-label data
    with pytest.raises(ValueError, match="row 2"):
        index_labels(["a", ["a", "b"]], infer_label_names([["a", ["a", "b"]]]), "here")
