"""Label names: reading, comparing, aligning, and the order of the student's head."""

import pytest

from lightning_kd.models.labels import align_labels, get_label_names, resolve_label_names, same_label_set


@pytest.mark.parametrize(
    ("id2label", "names"),
    [
        ({2: "oos", 0: "greet", 1: "leave"}, ["greet", "leave", "oos"]),
        ({str(i): f"name{i}" for i in reversed(range(12))}, [f"name{i}" for i in range(12)]),  # from a JSON file
        ({0: "LABEL_0", 1: "oos"}, ["LABEL_0", "oos"]),
        (None, None),
        ({}, None),
        ({0: "LABEL_0", 1: "LABEL_1"}, None),
        ({"0": "LABEL_0", "10": "LABEL_10"}, None),
    ],
)
def test_get_label_names(id2label, names):
    assert get_label_names(id2label) == names


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


@pytest.mark.parametrize(
    ("names", "reference", "options", "positions"),
    [
        (["A", "b"], ["a", "B"], {}, None),
        (["c", "A", "b"], ["a", "b", "c"], {}, [2, 0, 1]),
        (["c", "a"], ["a", "b", "c"], {"subset": True}, [2, 0]),
        (["a", "b"], ["a", "b", "c"], {"subset": True}, [0, 1]),
        (["LABEL_A", "LABEL_B"], ["neg", "pos"], {"ignore_mismatch": True}, None),
    ],
    ids=["same order", "other order", "subset in other order", "subset in same order", "mismatch ignored"],
)
def test_align_labels(names, reference, options, positions):
    index = align_labels(names, reference, "data and student", "", **{"ignore_mismatch": False, **options})
    assert (index if index is None else index.tolist()) == positions


@pytest.mark.parametrize(
    ("names", "reference", "subset", "message"),
    [
        (["a", "b"], ["a", "b", "c"], False, r"2 vs\. 3 labels.*: c\); fix it$"),
        (["a", "b", "c"], ["a", "b"], True, r"3 vs\. 2 labels; only in the first: c\); fix it$"),
        ([f"name{i}" for i in range(150)], ["a"], False, r"first: name0, name1, name2, \.\.\.; .*second: a\); fix it$"),
        (["a", "x"], ["a", "b"], False, "first: x; .*second: b.*fix it.*ignore_checks"),
        (["a", "A"], ["a", "b"], False, "2 vs. 2 labels"),
        (["a", "b"], ["a", "A"], False, "2 vs. 2 labels"),
    ],
)
def test_different_label_sets_raise(names, reference, subset, message):
    ignore_mismatch = len(names) != len(reference)  # allows other names, but not another number of them
    with pytest.raises(ValueError, match=f"^data and student .*{message}"):
        align_labels(names, reference, "data and student", "fix it", ignore_mismatch, subset)


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
