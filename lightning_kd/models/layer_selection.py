"""Which layers of a deep network a shallow one starts from."""

from collections.abc import Sequence
from typing import Literal

LayerStrategy = Literal["uniform", "first", "last", "distilbert"]
"""Ways to choose layers by name: see ``select_layers``."""

DISTILBERT_LAYERS = {
    1: [0],
    2: [0, 6],
    3: [0, 6, 11],
    4: [0, 4, 8, 11],
    6: [0, 2, 4, 7, 9, 11],
    9: [0, 1, 2, 4, 5, 7, 9, 10, 11],
}
"""Layers of 12 that a student of so many layers starts from (Shleifer and Rush 2020, Pre-trained Summarization
Distillation, and its published code)."""


def evenly_spaced_indices(count: int, total: int) -> list[int]:
    """Indices of ``count`` layers out of ``total``, the first and the last included (one layer: the first).

    Example:
        >>> evenly_spaced_indices(2, 6), evenly_spaced_indices(3, 12), evenly_spaced_indices(1, 6)
        ([0, 5], [0, 6, 11], [0])
    """
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)] if count > 1 else [0]


def select_layers(layers: Sequence[int] | LayerStrategy | None, num_layers: int, num_source_layers: int) -> list[int]:
    """For each of the student's layers the index of the layer it starts from.

    Args:
        layers: Indices in [-num_source_layers, num_source_layers); or ``uniform``, every
            (num_source_layers / num_layers)-th beginning with the first; ``first`` or ``last``; ``distilbert``, see
            ``DISTILBERT_LAYERS``; None = evenly spaced, the first and the last included.
        num_layers: Layers of the student, >= 1.
        num_source_layers: Layers of the network to copy from, >= num_layers.

    Raises:
        ValueError: If there are too few layers, an index is out of range, or the strategy does not know the numbers.

    Example:
        >>> select_layers("uniform", 6, 12), select_layers("last", 2, 6)
        ([0, 2, 4, 6, 8, 10], [4, 5])
    """
    if num_layers > num_source_layers:
        raise ValueError(
            f"LayerInitialization: the student has {num_layers} layers, the source {num_source_layers}; "
            "make it shallower"
        )
    if layers is None:
        return evenly_spaced_indices(num_layers, num_source_layers)
    if layers == "uniform":
        return [index * num_source_layers // num_layers for index in range(num_layers)]
    if layers == "first":
        return list(range(num_layers))
    if layers == "last":
        return list(range(num_source_layers - num_layers, num_source_layers))
    if layers == "distilbert":
        if num_source_layers != 12 or num_layers not in DISTILBERT_LAYERS:
            raise ValueError(
                f"LayerInitialization.layers: 'distilbert' is for {', '.join(map(str, DISTILBERT_LAYERS))} of 12 "
                f"layers, not "
                f"for {num_layers} of {num_source_layers}; use null (evenly spaced) or name the layers"
            )
        return DISTILBERT_LAYERS[num_layers]
    if isinstance(layers, str):
        raise ValueError(
            f"LayerInitialization.layers: {layers!r} is no strategy; use uniform, first, last, distilbert or a list"
        )
    if len(layers) != num_layers:
        raise ValueError(f"LayerInitialization.layers: {len(layers)} given, the student has {num_layers} layers")
    for index in layers:
        if not -num_source_layers <= index < num_source_layers:
            raise ValueError(
                f"LayerInitialization.layers: {index} is out of range, the source has layers "
                f"0 to {num_source_layers - 1}"
            )
    return [index % num_source_layers for index in layers]
