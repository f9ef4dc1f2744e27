"""Sparing a network the work at positions whose output nobody reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lightning_kd.models.loading import encoder_layers, forward
from lightning_kd.outputs import Batch

Choice = Callable[[Tensor], Tensor]
"""Leaves out positions of hidden states, (B, L, H)."""

TRIED_ROWS = 2

_last_norms: WeakKeyDictionary[nn.Module, nn.LayerNorm | None] = WeakKeyDictionary()


def spare(
    network: nn.Module, choice_of: Callable[[Batch], Choice], batch: Batch, head_alone: bool, keep_layers: bool
) -> Any:
    """A context in which a network works at chosen positions only, as soon as the others do not matter any more.

    In the last layer of an encoder that normalises after each block (BERT and its like) the other positions matter up
    to the attention: two thirds of the layer's multiplications come after. Whether a network is of that kind is
    tried, once, on rows of the first batch: its logits must stay what they were.

    Args:
        network: Its forward pass is to run once within the context.
        choice_of: What to choose of a batch.
        batch: The batch it is to run on.
        head_alone: Where the last layer is not cut, cut before the head; else run the network as it is.
        keep_layers: The hidden states of all layers are wanted whole.
    """
    if not keep_layers and network not in _last_norms:
        _try_out(network, choice_of, batch, head_alone)
    norm = None if keep_layers else _last_norms.get(network)
    if norm is not None:
        return _cut_inputs(norm, choice_of(batch))
    return _cut_encoder(network, choice_of(batch)) if head_alone else nullcontext()


@contextmanager
def _cut_inputs(module: nn.Module, choose: Choice) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda module, args: (choose(args[0]),))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _cut_encoder(network: nn.Module, choose: Choice) -> Iterator[None]:
    """Choose of the encoder's output, so that a transformers network's head gets nothing else."""
    network = getattr(network, "_orig_mod", network)  # of a compiled one
    encoder = network.base_model if isinstance(network, transformers.PreTrainedModel) else network
    if encoder is network:
        yield
        return

    def cut(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = choose(output.last_hidden_state)
        return output

    handle = encoder.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _try_out(network: nn.Module, choice_of: Callable[[Batch], Choice], batch: Batch, head_alone: bool) -> None:
    """Note the norm after the attention of the last layer, if the logits stay what they were with its input cut.

    Nothing is noted where the rows tell nothing, because all or none of their positions are chosen or all logits are 0.
    Networks that normalise before the attention are told by what the norm gets, the very input of the layer: in half
    precision the logits alone would not show it.
    """
    _last_norms[network] = None
    # a compiled network would be compiled anew for each hook, checkpointed layers run again without it, and a divided
    # network all devices would have to try at once
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in network.modules())
    fits = isinstance(network, transformers.PreTrainedModel) and not isinstance(network, FSDPModule)
    stack = encoder_layers(network) if fits and not checkpointed else None
    norm = next((m for m in stack[1][-1].modules() if isinstance(m, nn.LayerNorm)), None) if stack else None
    if norm is None:
        return
    rows = {name: value[:TRIED_ROWS] for name, value in batch.items() if isinstance(value, Tensor) and value.ndim}
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    inputs: dict[str, Tensor] = {}

    def note_layer(module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        inputs["layer"] = args[0] if args else options["hidden_states"]

    def note_norm(module: nn.Module, args: Any) -> None:
        inputs["norm"] = args[0]

    handles = [
        stack[1][-1].register_forward_pre_hook(note_layer, with_kwargs=True),  # type: ignore[index]
        norm.register_forward_pre_hook(note_norm),
    ]
    try:
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            with _cut_encoder(network, choice_of(rows)) if head_alone else nullcontext():
                expected = forward(network, rows).logits
            whole, normalises_first = inputs["norm"], inputs["norm"].data_ptr() == inputs["layer"].data_ptr()
            with _cut_inputs(norm, choice_of(rows)):
                logits = forward(network, rows).logits
    except Exception:  # whatever a network raises that makes something else of its hidden states
        return
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    if not expected.any() or choice_of(rows)(whole).shape == whole.shape:
        del _last_norms[network]
    elif logits.shape == expected.shape and not normalises_first:
        tolerance = (1e-3 if logits.dtype == torch.float32 else 5e-2) * float(expected.abs().max())
        _last_norms[network] = norm if float((logits - expected).abs().max()) <= tolerance else None
