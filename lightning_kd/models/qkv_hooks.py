"""Capture queries, keys and values of a model's layers during its forward pass."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from lightning_kd.models.inspection import encoder_layers, model_dims
from lightning_kd.outputs import QKV

QKV_NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
"""Names of the three linear layers: in BERT, RoBERTa, XLM-R and ELECTRA; in DistilBERT; in MPNet."""


def qkv_layers(model: nn.Module) -> list[tuple[nn.Module, ...]]:
    """Return the linear layers that compute queries, keys and values, one triple per encoder layer.

    Raises:
        ValueError: If the model has no list of layers, or a layer has no such triple.
    """
    stack = encoder_layers(model)
    found = [_find_qkv(layer) for layer in stack[1]] if stack is not None else []
    layers = [qkv for qkv in found if qkv is not None]
    if not layers or len(layers) < len(found):
        raise ValueError(
            f"{type(model).__name__}: queries, keys and values not found (supported: BERT, RoBERTa, XLM-R, ELECTRA, "
            "DistilBERT, MPNet); use a loss on hidden states"
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
    """Capture the queries, keys and values of one forward pass within the context.

    The hooks are on the linear layers, so any attention implementation works.

    Yields:
        A list that, after the context, holds one ``QKV`` per layer.
    """
    captured: list[Tensor] = []
    layers: list[QKV] = []
    with ExitStack() as hooks:
        for module in itertools.chain(*qkv_layers(model)):
            hooks.enter_context(module.register_forward_hook(lambda module, args, output: captured.append(output)))
        yield layers
    dims = model_dims(model)
    assert dims is not None  # encoder_layers has read the configuration
    for query, key, value in zip(captured[::3], captured[1::3], captured[2::3], strict=True):
        layers.append(QKV(query, key, value, dims.num_attention_heads))
