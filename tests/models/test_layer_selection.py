"""Layer selection by strategy or index."""

import pytest

from lightning_kd.models.layer_selection import DISTILBERT_LAYERS, select_layers


@pytest.mark.parametrize(
    ("strategy", "num_layers", "total", "expected"),
    [
        (None, 1, 6, [0]),
        (None, 2, 6, [0, 5]),
        (None, 3, 12, [0, 6, 11]),
        (None, 4, 4, [0, 1, 2, 3]),
        (None, 6, 12, [0, 2, 4, 7, 9, 11]),
        ("uniform", 6, 12, [0, 2, 4, 6, 8, 10]),
        ("uniform", 4, 6, [0, 1, 3, 4]),
        ("first", 2, 6, [0, 1]),
        ("last", 2, 6, [4, 5]),
        ("distilbert", 6, 12, [0, 2, 4, 7, 9, 11]),
        ("distilbert", 9, 12, [0, 1, 2, 4, 5, 7, 9, 10, 11]),
        ([3, -1], 2, 5, [3, 4]),
    ],
)
def test_select_layers(strategy, num_layers, total, expected):
    assert select_layers(strategy, num_layers, total) == expected


def test_distilbert_table():
    assert list(DISTILBERT_LAYERS) == [1, 2, 3, 4, 6, 9]
    assert all(
        len(set(layers)) == num_layers and layers == sorted(layers) for num_layers, layers in DISTILBERT_LAYERS.items()
    )


@pytest.mark.parametrize(
    ("layers", "num_layers", "message"),
    [
        ([0, 5], 2, r"\.layers: 5 is out of range.* 0 to 4"),
        ([0, -6], 2, r"\.layers: -6 is out of range"),
        ([0], 2, r"\.layers: .*1 .*2 layers"),
        ("distilbert", 2, r"\.layers: 'distilbert' .*1, 2, 3, 4, 6, 9 of 12.* 2 of 5"),
        ("middle", 2, r"\.layers: .*'middle'.*uniform, first, last, distilbert"),
        (None, 6, ": .* 6 layers.* 5;"),
    ],
)
def test_invalid_layers_raise(layers, num_layers, message):
    with pytest.raises(ValueError, match=f"^LayerInitialization{message}"):
        select_layers(layers, num_layers, 5)
