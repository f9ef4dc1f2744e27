"""Queries, keys and values of a network's layers, taken while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_kd.models.inspection import encoder_layers, model_dims
from lightning_kd.outputs import QKV

QKV_NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
"""What the three maps are called: BERT, RoBERTa, XLM-R and ELECTRA; DistilBERT; MPNet."""


def qkv_layers(model: nn.Module) -> list[tuple[nn.Module, ...]]:
    """The maps to queries, keys and values of each layer.

    Raises:
        ValueError: If the network has no list of layers, or a layer no such maps.
    """
    stack = encoder_layers(model)
    linears = [_find_qkv(layer) for layer in stack[1]] if stack is not None else []
    layers = [qkv for qkv in linears if qkv is not None]
    if not layers or len(layers) < len(linears):
        raise ValueError(
            f"{type(model).__name__}: no queries, keys and values to compare; families known are BERT, RoBERTa, "
            "XLM-R, ELECTRA, DistilBERT and MPNet; use a loss on hidden states"
        )
    return layers


def _find_qkv(layer: nn.Module) -> tuple[nn.Module, ...] | None:
    for names in QKV_NAMES:
        linears = [module for path, module in layer.named_modules() if path.rpartition(".")[2] in names]
        if len(linears) == len(names):
            return tuple(linears)
    return None


@contextmanager
def capture_qkv(model: nn.Module) -> Iterator[list[QKV]]:
    """Within the context the network is to run once; afterwards the list holds the projections of its layers.

    Hooks take what the linear maps return, so any attention implementation does.
    """
    captured: list[Tensor] = []
    linears = qkv_layers(model)
    handles = [
        module.register_forward_hook(lambda module, args, output: captured.append(output))
        for qkv in linears
        for module in qkv
    ]
    layers: list[QKV] = []
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
    dims = model_dims(model)
    assert dims is not None  # encoder_layers has read the configuration
    for query, key, value in zip(captured[::3], captured[1::3], captured[2::3], strict=True):
        layers.append(QKV(query, key, value, dims.num_attention_heads))
