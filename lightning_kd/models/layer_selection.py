"""Which layers of a deep network a shallow one starts from."""

from collections.abc import Sequence
from typing import Literal

Strategy = Literal["uniform", "first", "last", "published"]
"""Ways to choose layers by name: see ``choose_layers``."""

PUBLISHED = {
    1: [0],
    2: [0, 6],
    3: [0, 6, 11],
    4: [0, 4, 8, 11],
    6: [0, 2, 4, 7, 9, 11],
    9: [0, 1, 2, 4, 5, 7, 9, 10, 11],
}
"""Layers of 12 that a student of so many layers starts from (Shleifer and Rush 2020, Pre-trained Summarization
Distillation, and its published code)."""


def evenly_spaced(count: int, among: int) -> list[int]:
    """Indices of ``count`` layers out of ``among``, the first and the last included (one layer: the first).

    Example:
        >>> evenly_spaced(2, 6), evenly_spaced(3, 12), evenly_spaced(1, 6)
        ([0, 5], [0, 6, 11], [0])
    """
    return [(2 * i * (among - 1) + count - 1) // (2 * (count - 1)) for i in range(count)] if count > 1 else [0]


def choose_layers(layers: Sequence[int] | Strategy | None, count: int, among: int) -> list[int]:
    """For each of the student's layers the index of the layer it starts from.

    Args:
        layers: The indices themselves, in [-among, among); or ``uniform``, every (among / count)-th beginning with the
            first; ``first`` or ``last``; ``published``, see ``PUBLISHED``; None = evenly spaced, the first and the last
            included.
        count: Layers of the student, >= 1.
        among: Layers of the network to copy from, >= count.

    Raises:
        ValueError: If there are too few layers, an index is out of range, or the strategy does not know the numbers.

    Example:
        >>> choose_layers("uniform", 6, 12), choose_layers("last", 2, 6)
        ([0, 2, 4, 6, 8, 10], [4, 5])
    """
    if count > among:
        raise ValueError(f"LayerInitialization: the student has {count} layers, the source {among}; make it shallower")
    if layers is None:
        return evenly_spaced(count, among)
    if layers == "uniform":
        return [index * among // count for index in range(count)]
    if layers == "first":
        return list(range(count))
    if layers == "last":
        return list(range(among - count, among))
    if layers == "published":
        if among != 12 or count not in PUBLISHED:
            raise ValueError(
                f"LayerInitialization.layers: 'published' is for {', '.join(map(str, PUBLISHED))} of 12 layers, not "
                f"for {count} of {among}; use null (evenly spaced) or name the layers"
            )
        return PUBLISHED[count]
    if isinstance(layers, str):
        raise ValueError(
            f"LayerInitialization.layers: {layers!r} is no strategy; use uniform, first, last, published or a list"
        )
    if len(layers) != count:
        raise ValueError(f"LayerInitialization.layers: {len(layers)} given, the student has {count} layers")
    for index in layers:
        if not -among <= index < among:
            raise ValueError(
                f"LayerInitialization.layers: {index} is out of range, the source has layers 0 to {among - 1}"
            )
    return [index % among for index in layers]
