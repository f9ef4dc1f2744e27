"""Which layers a strategy chooses."""

import pytest

from lightning_kd.models.layer_selection import PUBLISHED, choose_layers, evenly_spaced


@pytest.mark.parametrize(
    ("count", "among", "expected"),
    [(1, 6, [0]), (2, 6, [0, 5]), (3, 12, [0, 6, 11]), (4, 4, [0, 1, 2, 3]), (6, 12, [0, 2, 4, 7, 9, 11])],
)
def test_evenly_spaced(count, among, expected):
    assert evenly_spaced(count, among) == choose_layers(None, count, among) == expected


@pytest.mark.parametrize(
    ("strategy", "count", "among", "expected"),
    [
        ("uniform", 6, 12, [0, 2, 4, 6, 8, 10]),
        ("uniform", 4, 6, [0, 1, 3, 4]),
        ("first", 2, 6, [0, 1]),
        ("last", 2, 6, [4, 5]),
        ("published", 6, 12, [0, 2, 4, 7, 9, 11]),
        ("published", 9, 12, [0, 1, 2, 4, 5, 7, 9, 10, 11]),
        ([3, -1], 2, 5, [3, 4]),
    ],
)
def test_strategies(strategy, count, among, expected):
    assert choose_layers(strategy, count, among) == expected


def test_published_table():
    assert list(PUBLISHED) == [1, 2, 3, 4, 6, 9]
    assert all(len(set(layers)) == count and layers == sorted(layers) for count, layers in PUBLISHED.items())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 5], "5 is out of range, the source has layers 0 to 4"),
        ([0, -6], "-6 is out of range"),
        ([0], "1 given, the student has 2 layers"),
        ("published", "'published' is for 1, 2, 3, 4, 6, 9 of 12 layers, not for 2 of 5; use null"),
        ("middle", "'middle' is no strategy; use uniform, first, last, published or a list"),
    ],
)
def test_bad_layers(layers, message):
    with pytest.raises(ValueError, match=message):
        choose_layers(layers, 2, 5)


def test_student_deeper_than_its_source():
    with pytest.raises(ValueError, match="the student has 6 layers, the source 5; make it shallower"):
        choose_layers(None, 6, 5)
