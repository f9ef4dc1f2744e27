"""Layer selection by strategy or index."""

import pytest

from lightning_kd.models.layer_selection import DISTILBERT_LAYERS, evenly_spaced_indices, select_layers


@pytest.mark.parametrize(
    ("num_layers", "total", "expected"),
    [(1, 6, [0]), (2, 6, [0, 5]), (3, 12, [0, 6, 11]), (4, 4, [0, 1, 2, 3]), (6, 12, [0, 2, 4, 7, 9, 11])],
)
def test_evenly_spaced_indices(num_layers, total, expected):
    assert evenly_spaced_indices(num_layers, total) == select_layers(None, num_layers, total) == expected


@pytest.mark.parametrize(
    ("strategy", "num_layers", "total", "expected"),
    [
        ("uniform", 6, 12, [0, 2, 4, 6, 8, 10]),
        ("uniform", 4, 6, [0, 1, 3, 4]),
        ("first", 2, 6, [0, 1]),
        ("last", 2, 6, [4, 5]),
        ("distilbert", 6, 12, [0, 2, 4, 7, 9, 11]),
        ("distilbert", 9, 12, [0, 1, 2, 4, 5, 7, 9, 10, 11]),
        ([3, -1], 2, 5, [3, 4]),
    ],
)
def test_strategies(strategy, num_layers, total, expected):
    assert select_layers(strategy, num_layers, total) == expected


def test_distilbert_table():
    assert list(DISTILBERT_LAYERS) == [1, 2, 3, 4, 6, 9]
    assert all(
        len(set(layers)) == num_layers and layers == sorted(layers) for num_layers, layers in DISTILBERT_LAYERS.items()
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 5], "5 is out of range.* 0 to 4"),
        ([0, -6], "-6 is out of range"),
        ([0], "1 .*2 layers"),
        ("distilbert", "'distilbert' .*1, 2, 3, 4, 6, 9 of 12.* 2 of 5"),
        ("middle", "'middle'.*uniform, first, last, distilbert"),
    ],
)
def test_invalid_layers(layers, message):
    with pytest.raises(ValueError, match=rf"^LayerInitialization\.layers: .*{message}"):
        select_layers(layers, 2, 5)


def test_student_deeper_than_its_source():
    with pytest.raises(ValueError, match=r"^LayerInitialization: .* 6 layers.* 5;"):
        select_layers(None, 6, 5)
