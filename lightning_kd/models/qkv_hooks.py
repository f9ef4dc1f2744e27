"""Queries, keys and values of a network's layers, taken while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_kd.models.loading import encoder_layers, shape_of
from lightning_kd.outputs import Projections

NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
"""What the three maps are called: BERT, RoBERTa, XLM-R and ELECTRA; DistilBERT; MPNet."""


def projection_maps(network: nn.Module) -> list[tuple[nn.Module, ...]]:
    """The maps to queries, keys and values of each layer.

    Raises:
        ValueError: If the network has no list of layers, or a layer no such maps.
    """
    stack = encoder_layers(network)
    maps = [_maps_of(layer) for layer in stack[1]] if stack is not None else []
    found = [three for three in maps if three is not None]
    if not found or len(found) < len(maps):
        raise ValueError(
            f"{type(network).__name__}: no queries, keys and values to compare; families known are BERT, RoBERTa, "
            "XLM-R, ELECTRA, DistilBERT and MPNet; use a loss on hidden states"
        )
    return found


def _maps_of(layer: nn.Module) -> tuple[nn.Module, ...] | None:
    for names in NAMES:
        maps = [module for path, module in layer.named_modules() if path.rpartition(".")[2] in names]
        if len(maps) == len(names):
            return tuple(maps)
    return None


@contextmanager
def recorded_projections(network: nn.Module) -> Iterator[list[Projections]]:
    """Within the context the network is to run once; afterwards the list holds the projections of its layers.

    Hooks take what the linear maps return, so any attention implementation does.
    """
    kept: list[Tensor] = []
    maps = projection_maps(network)
    handles = [
        module.register_forward_hook(lambda module, args, output: kept.append(output))
        for three in maps
        for module in three
    ]
    recorded: list[Projections] = []
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
    shape = shape_of(network)
    assert shape is not None  # encoder_layers has read the configuration
    for query, key, value in zip(kept[::3], kept[1::3], kept[2::3], strict=True):
        recorded.append(Projections(query, key, value, shape.heads))
