import pytest

from lightning_kd.models.labels import align, choose_label_names, label_names_of, same_set


def test_names_in_index_order():
    assert label_names_of({2: "oos", 0: "greet", 1: "leave"}) == ["greet", "leave", "oos"]


def test_names_from_a_json_config_sort_by_number():
    assert label_names_of({str(i): f"name{i}" for i in reversed(range(12))}) == [f"name{i}" for i in range(12)]


@pytest.mark.parametrize("id2label", [None, {}, {0: "LABEL_0", 1: "LABEL_1"}, {"0": "LABEL_0", "10": "LABEL_10"}])
def test_placeholders_are_no_names(id2label):
    assert label_names_of(id2label) is None


def test_one_real_name_among_placeholders_counts():
    assert label_names_of({0: "LABEL_0", 1: "oos"}) == ["LABEL_0", "oos"]


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
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
def test_same_set(ours, theirs, same):
    assert same_set(ours, theirs) is same


def test_same_order_needs_no_index():
    assert align(["A", "b"], ["a", "B"], "teacher and student", "", accepted=False) is None


def test_other_order_gives_positions():
    names, within = ["c", "A", "b"], ["a", "b", "c"]
    positions = align(names, within, "data and student", "", accepted=False)
    assert [within[i] for i in positions] == ["c", "a", "b"]


def test_subset_gives_positions():
    assert align(["c", "a"], ["a", "b", "c"], "data and student", "", accepted=False, subset=True).tolist() == [2, 0]


def test_leading_subset_gives_positions_too():
    assert align(["a", "b"], ["a", "b", "c"], "data and student", "", accepted=False, subset=True).tolist() == [0, 1]


@pytest.mark.parametrize("accepted", [False, True])
def test_missing_labels_are_refused_without_subset(accepted):
    with pytest.raises(
        ValueError, match=r"teacher and student have different label sets \(2 against 3 labels; .*: c\); fix"
    ):
        align(["a", "b"], ["a", "b", "c"], "teacher and student", "fix it", accepted)


@pytest.mark.parametrize("accepted", [False, True])
def test_more_labels_are_refused_even_as_subset(accepted):
    with pytest.raises(ValueError, match="3 against 2 labels; only in the first: c"):
        align(["a", "b", "c"], ["a", "b"], "data and student", "fix it", accepted, subset=True)


def test_other_names_are_refused_with_the_remedy_and_what_differs():
    with pytest.raises(ValueError, match=r"only in the first: x; only in the second: b.*fix it.*--model\.accept\+="):
        align(["a", "x"], ["a", "b"], "teacher and student", "fix it", accepted=False)


def test_long_differences_are_cut():
    names = [f"name{i}" for i in range(150)]
    with pytest.raises(
        ValueError, match=r"only in the first: name0, name1, name2, \.\.\.; only in the second: a\); fix it$"
    ):
        align(names, ["a"], "teacher and student", "fix it", accepted=False)


def test_other_names_in_the_same_number_can_be_accepted():
    assert align(["LABEL_A", "LABEL_B"], ["neg", "pos"], "teacher and student", "", accepted=True) is None


@pytest.mark.parametrize(("names", "within"), [(["a", "A"], ["a", "b"]), (["a", "b"], ["a", "A"])])
def test_ambiguous_names_are_refused(names, within):
    with pytest.raises(ValueError, match="label"):
        align(names, within, "teacher and student", "fix it", accepted=False)


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
def test_choice_of_label_names(student, teacher, data, chosen):
    assert choose_label_names(student, teacher, data, accepted=False) == chosen


@pytest.mark.parametrize(
    ("teacher", "data", "party"),
    [(["a", "c"], ["a", "b"], "teacher"), (["a"], ["a", "b"], "teacher"), (None, ["a", "b", "c"], "data")],
)
def test_a_student_that_knows_other_labels_is_refused(teacher, data, party):
    with pytest.raises(ValueError, match=rf"student and {party} have different label sets .*--model\.accept\+="):
        choose_label_names(["a", "b"], teacher, data, accepted=False)


@pytest.mark.parametrize(("teacher", "data"), [(["x", "y", "z"], ["a", "b"]), (None, ["x", "y", "z"])])
def test_accepted_a_student_takes_the_labels_of_the_other(teacher, data):
    assert choose_label_names(["a", "b"], teacher, data, accepted=True) == ["x", "y", "z"]
