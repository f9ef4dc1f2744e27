import pytest

from lightning_kd.models.labels import align_labels, get_label_names, resolve_label_names, same_label_set


def test_names_in_index_order():
    assert get_label_names({2: "oos", 0: "greet", 1: "leave"}) == ["greet", "leave", "oos"]


def test_names_from_a_json_config_sort_by_number():
    assert get_label_names({str(i): f"name{i}" for i in reversed(range(12))}) == [f"name{i}" for i in range(12)]


@pytest.mark.parametrize("id2label", [None, {}, {0: "LABEL_0", 1: "LABEL_1"}, {"0": "LABEL_0", "10": "LABEL_10"}])
def test_placeholders_are_no_names(id2label):
    assert get_label_names(id2label) is None


def test_one_real_name_among_placeholders_counts():
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


def test_same_order_needs_no_index():
    assert align_labels(["A", "b"], ["a", "B"], "teacher and student", "", ignore_mismatch=False) is None


def test_other_order_gives_positions():
    names, reference = ["c", "A", "b"], ["a", "b", "c"]
    positions = align_labels(names, reference, "data and student", "", ignore_mismatch=False)
    assert [reference[i] for i in positions] == ["c", "a", "b"]


def test_subset_gives_positions():
    assert align_labels(
        ["c", "a"], ["a", "b", "c"], "data and student", "", ignore_mismatch=False, subset=True
    ).tolist() == [2, 0]


def test_leading_subset_gives_positions_too():
    assert align_labels(
        ["a", "b"], ["a", "b", "c"], "data and student", "", ignore_mismatch=False, subset=True
    ).tolist() == [0, 1]


@pytest.mark.parametrize("ignore_mismatch", [False, True])
def test_missing_labels_are_refused_without_subset(ignore_mismatch):
    with pytest.raises(
        ValueError, match=r"teacher and student have different label sets \(2 against 3 labels; .*: c\); fix"
    ):
        align_labels(["a", "b"], ["a", "b", "c"], "teacher and student", "fix it", ignore_mismatch)


@pytest.mark.parametrize("ignore_mismatch", [False, True])
def test_more_labels_are_refused_even_as_subset(ignore_mismatch):
    with pytest.raises(ValueError, match="3 against 2 labels; only in the first: c"):
        align_labels(["a", "b", "c"], ["a", "b"], "data and student", "fix it", ignore_mismatch, subset=True)


def test_other_names_are_refused_with_the_remedy_and_what_differs():
    with pytest.raises(
        ValueError, match=r"only in the first: x; only in the second: b.*fix it.*--model\.ignore_checks\+="
    ):
        align_labels(["a", "x"], ["a", "b"], "teacher and student", "fix it", ignore_mismatch=False)


def test_long_differences_are_cut():
    names = [f"name{i}" for i in range(150)]
    with pytest.raises(
        ValueError, match=r"only in the first: name0, name1, name2, \.\.\.; only in the second: a\); fix it$"
    ):
        align_labels(names, ["a"], "teacher and student", "fix it", ignore_mismatch=False)


def test_other_names_in_the_same_number_can_be_accepted():
    assert align_labels(["LABEL_A", "LABEL_B"], ["neg", "pos"], "teacher and student", "", ignore_mismatch=True) is None


@pytest.mark.parametrize(("names", "reference"), [(["a", "A"], ["a", "b"]), (["a", "b"], ["a", "A"])])
def test_ambiguous_names_are_refused(names, reference):
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
    ids=["nobody", "data", "teacher first", "student", "student's order", "over data's", "data show some"],
)
def test_resolve_label_names(student, teacher, data, chosen):
    assert resolve_label_names(student, teacher, data, ignore_mismatch=False) == chosen


@pytest.mark.parametrize(
    ("teacher", "data", "party"),
    [(["a", "c"], ["a", "b"], "teacher"), (["a"], ["a", "b"], "teacher"), (None, ["a", "b", "c"], "data")],
)
def test_a_student_that_knows_other_labels_is_refused(teacher, data, party):
    with pytest.raises(ValueError, match=rf"student and {party} have different label sets .*--model\.ignore_checks\+="):
        resolve_label_names(["a", "b"], teacher, data, ignore_mismatch=False)


@pytest.mark.parametrize(("teacher", "data"), [(["x", "y", "z"], ["a", "b"]), (None, ["x", "y", "z"])])
def test_accepted_a_student_takes_the_labels_of_the_other(teacher, data):
    assert resolve_label_names(["a", "b"], teacher, data, ignore_mismatch=True) == ["x", "y", "z"]
