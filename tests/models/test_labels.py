"""Label names: reading, comparing, aligning, and the order of the student's head."""

import pytest

from lightning_kd.models.labels import align_labels, get_label_names, resolve_label_names, same_label_set


def test_names_in_index_order():
    assert get_label_names({2: "oos", 0: "greet", 1: "leave"}) == ["greet", "leave", "oos"]


def test_names_from_a_json_config_sort_by_number():
    assert get_label_names({str(i): f"name{i}" for i in reversed(range(12))}) == [f"name{i}" for i in range(12)]


@pytest.mark.parametrize("id2label", [None, {}, {0: "LABEL_0", 1: "LABEL_1"}, {"0": "LABEL_0", "10": "LABEL_10"}])
def test_placeholders_only(id2label):
    assert get_label_names(id2label) is None


def test_one_name_among_placeholders():
    assert get_label_names({0: "LABEL_0", 1: "oos"}) == ["LABEL_0", "oos"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (["a", "b"], ["b", "a"], True),
        (["NEGATIVE", "positive "], ["Positive", "negative"], True),
        (["a", "b"], ["a", "b", "c"], False),
        (["a", "b"], ["a", "c"], False),
        (["straße", "b"], ["B", "STRASSE"], True),
        (["a", "A"], ["a", "b"], False),
        (["a", "b"], ["a", "A"], False),
    ],
)
def test_same_label_set(first, second, same):
    assert same_label_set(first, second) is same


def test_same_order():
    assert align_labels(["A", "b"], ["a", "B"], "teacher and student", "", ignore_mismatch=False) is None


def test_other_order():
    names, reference = ["c", "A", "b"], ["a", "b", "c"]
    positions = align_labels(names, reference, "data and student", "", ignore_mismatch=False)
    assert [reference[i] for i in positions] == ["c", "a", "b"]


@pytest.mark.parametrize(("names", "positions"), [(["c", "a"], [2, 0]), (["a", "b"], [0, 1])])
def test_subset(names, positions):
    index = align_labels(names, ["a", "b", "c"], "data and student", "", ignore_mismatch=False, subset=True)
    assert index.tolist() == positions


@pytest.mark.parametrize("ignore_mismatch", [False, True])
def test_missing_labels_without_subset(ignore_mismatch):
    with pytest.raises(ValueError, match=r"^teacher and student .*2 vs\. 3 labels.*: c\); fix it$"):
        align_labels(["a", "b"], ["a", "b", "c"], "teacher and student", "fix it", ignore_mismatch)


@pytest.mark.parametrize("ignore_mismatch", [False, True])
def test_more_labels_than_the_reference(ignore_mismatch):
    with pytest.raises(ValueError, match=r"3 vs\. 2 labels; only in the first: c"):
        align_labels(["a", "b", "c"], ["a", "b"], "data and student", "fix it", ignore_mismatch, subset=True)


def test_other_names():
    with pytest.raises(ValueError, match=r"first: x; .*second: b.*fix it.*ignore_checks"):
        align_labels(["a", "x"], ["a", "b"], "teacher and student", "fix it", ignore_mismatch=False)


def test_long_differences_are_cut():
    names = [f"name{i}" for i in range(150)]
    with pytest.raises(ValueError, match=r"first: name0, name1, name2, \.\.\.; .*second: a\); fix it$"):
        align_labels(names, ["a"], "teacher and student", "fix it", ignore_mismatch=False)


def test_other_names_in_the_same_number_are_allowed():
    assert align_labels(["LABEL_A", "LABEL_B"], ["neg", "pos"], "teacher and student", "", ignore_mismatch=True) is None


@pytest.mark.parametrize(("names", "reference"), [(["a", "A"], ["a", "b"]), (["a", "b"], ["a", "A"])])
def test_ambiguous_names(names, reference):
    with pytest.raises(ValueError, match="label"):
        align_labels(names, reference, "teacher and student", "fix it", ignore_mismatch=False)


@pytest.mark.parametrize(
    ("student", "teacher", "data", "chosen"),
    [
        (None, None, None, None),
        (None, None, ["a", "b"], ["a", "b"]),
        (None, ["b", "a"], ["a", "b"], ["b", "a"]),
        (["a", "b"], None, None, ["a", "b"]),
        (["a", "b"], ["B", "A"], None, ["a", "b"]),
        (["a", "b"], None, ["b", "a"], ["a", "b"]),
        (["a", "b", "c"], None, ["c", "a"], ["a", "b", "c"]),
    ],
    ids=["none", "data", "teacher first", "student", "student's order", "over the data's", "data are a subset"],
)
def test_resolve_label_names(student, teacher, data, chosen):
    assert resolve_label_names(student, teacher, data, ignore_mismatch=False) == chosen


@pytest.mark.parametrize(
    ("teacher", "data", "party"),
    [(["a", "c"], ["a", "b"], "teacher"), (["a"], ["a", "b"], "teacher"), (None, ["a", "b", "c"], "data")],
)
def test_student_with_other_labels(teacher, data, party):
    with pytest.raises(ValueError, match=rf"^student and {party} .*ignore_checks"):
        resolve_label_names(["a", "b"], teacher, data, ignore_mismatch=False)


@pytest.mark.parametrize(("teacher", "data"), [(["x", "y", "z"], ["a", "b"]), (None, ["x", "y", "z"])])
def test_student_with_other_labels_takes_the_expected_ones_if_allowed(teacher, data):
    assert resolve_label_names(["a", "b"], teacher, data, ignore_mismatch=True) == ["x", "y", "z"]
