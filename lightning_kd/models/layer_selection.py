"""Select the layers of a deep model that initialize a shallower one."""

from collections.abc import Sequence
from typing import Literal

LayerStrategy = Literal["uniform", "first", "last", "distilbert"]
"""Named selections, see ``select_layers``."""

DISTILBERT_LAYERS = {
    1: [0],
    2: [0, 6],
    3: [0, 6, 11],
    4: [0, 4, 8, 11],
    6: [0, 2, 4, 7, 9, 11],
    9: [0, 1, 2, 4, 5, 7, 9, 10, 11],
}
"""Layers out of 12 by number of student layers (Shleifer and Rush 2020, Pre-trained Summarization Distillation, and its
published code)."""


def evenly_spaced_indices(count: int, total: int) -> list[int]:
    """Return ``count`` evenly spaced indices out of ``total``, including the first and the last (one: the first).

    Example:
        >>> evenly_spaced_indices(2, 6), evenly_spaced_indices(3, 12), evenly_spaced_indices(1, 6)
        ([0, 5], [0, 6, 11], [0])
    """
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)] if count > 1 else [0]


def select_layers(layers: Sequence[int] | LayerStrategy | None, num_layers: int, num_source_layers: int) -> list[int]:
    """Return the index of the source layer for each student layer.

    Args:
        layers: Indices in [-num_source_layers, num_source_layers); or ``uniform`` (every
            (num_source_layers / num_layers)-th from the first), ``first``, ``last`` or ``distilbert`` (see
            ``DISTILBERT_LAYERS``); None = evenly spaced, including the first and the last.
        num_layers: Number of student layers, >= 1.
        num_source_layers: Number of source layers, >= num_layers.

    Raises:
        ValueError: If the source has too few layers, an index is out of range, or the strategy does not support the
            numbers.

    Example:
        >>> select_layers("uniform", 6, 12), select_layers("last", 2, 6)
        ([0, 2, 4, 6, 8, 10], [4, 5])
    """
    if num_layers > num_source_layers:
        raise ValueError(
            f"LayerInitialization: the student has {num_layers} layers, the source {num_source_layers}; use a "
            "shallower student"
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
                f"LayerInitialization.layers: 'distilbert' selects {', '.join(map(str, DISTILBERT_LAYERS))} of 12 "
                f"layers, not {num_layers} of {num_source_layers}; use null (evenly spaced) or a list of indices"
            )
        return DISTILBERT_LAYERS[num_layers]
    if isinstance(layers, str):
        raise ValueError(
            f"LayerInitialization.layers: unknown strategy {layers!r}; use uniform, first, last, distilbert or a list"
        )
    if len(layers) != num_layers:
        raise ValueError(
            f"LayerInitialization.layers: has {len(layers)} indices, the student {num_layers} layers; use one index "
            "per layer"
        )
    for index in layers:
        if not -num_source_layers <= index < num_source_layers:
            raise ValueError(
                f"LayerInitialization.layers: {index} is out of range; the source has layers 0 to "
                f"{num_source_layers - 1}"
            )
    return [index % num_source_layers for index in layers]
