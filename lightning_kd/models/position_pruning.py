"""Sparing a network the work at positions whose output nobody reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lightning_kd.models.calling import call_model
from lightning_kd.models.inspection import encoder_layers
from lightning_kd.outputs import Batch

PositionSelector = Callable[[Tensor], Tensor]
"""Leaves out positions of hidden states, (B, L, H)."""

PROBE_EXAMPLES = 2

_last_norms: WeakKeyDictionary[nn.Module, nn.LayerNorm | None] = WeakKeyDictionary()


def prune_positions(
    model: nn.Module,
    make_selector: Callable[[Batch], PositionSelector],
    batch: Batch,
    prune_before_head: bool,
    output_hidden_states: bool,
) -> Any:
    """A context in which a network works at chosen positions only, as soon as the others do not matter any more.

    In the last layer of an encoder that normalises after each block (BERT and its like) the other positions matter up
    to the attention: two thirds of the layer's multiplications come after. Whether a network is of that kind is
    tried, once, on rows of the first batch: its logits must stay what they were.

    Args:
        model: Its forward pass is to run once within the context.
        make_selector: What to choose of a batch.
        batch: The batch it is to run on.
        prune_before_head: Where the last layer is not cut, cut before the head; else run the network as it is.
        output_hidden_states: The hidden states of all layers are wanted whole.
    """
    if not output_hidden_states and model not in _last_norms:
        _probe(model, make_selector, batch, prune_before_head)
    norm = None if output_hidden_states else _last_norms.get(model)
    if norm is not None:
        return _prune_inputs(norm, make_selector(batch))
    return _prune_encoder_output(model, make_selector(batch)) if prune_before_head else nullcontext()


@contextmanager
def _prune_inputs(module: nn.Module, select: PositionSelector) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda module, args: (select(args[0]),))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _prune_encoder_output(model: nn.Module, select: PositionSelector) -> Iterator[None]:
    """Choose of the encoder's output, so that a transformers network's head gets nothing else."""
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    encoder = model.base_model if isinstance(model, transformers.PreTrainedModel) else model
    if encoder is model:
        yield
        return

    def prune(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = select(output.last_hidden_state)
        return output

    handle = encoder.register_forward_hook(prune)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _probe(
    model: nn.Module, make_selector: Callable[[Batch], PositionSelector], batch: Batch, prune_before_head: bool
) -> None:
    """Note the norm after the attention of the last layer, if the logits stay what they were with its input cut.

    Nothing is noted where the rows tell nothing, because all or none of their positions are chosen or all logits are 0.
    Networks that normalise before the attention are told by what the norm gets, the very input of the layer: in half
    precision the logits alone would not show it.
    """
    _last_norms[model] = None
    # a compiled network would be compiled anew for each hook, checkpointed layers run again without it, and a divided
    # network all devices would have to try at once
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    supported = isinstance(model, transformers.PreTrainedModel) and not isinstance(model, FSDPModule)
    stack = encoder_layers(model) if supported and not checkpointed else None
    norm = next((m for m in stack[1][-1].modules() if isinstance(m, nn.LayerNorm)), None) if stack else None
    if norm is None:
        return
    examples = {
        name: value[:PROBE_EXAMPLES] for name, value in batch.items() if isinstance(value, Tensor) and value.ndim
    }
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    inputs: dict[str, Tensor] = {}

    def record_layer_input(module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        inputs["layer"] = args[0] if args else options["hidden_states"]

    def record_norm_input(module: nn.Module, args: Any) -> None:
        inputs["norm"] = args[0]

    handles = [
        stack[1][-1].register_forward_pre_hook(record_layer_input, with_kwargs=True),  # type: ignore[index]
        norm.register_forward_pre_hook(record_norm_input),
    ]
    try:
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            with _prune_encoder_output(model, make_selector(examples)) if prune_before_head else nullcontext():
                expected = call_model(model, examples).logits
            full_input, pre_norm = inputs["norm"], inputs["norm"].data_ptr() == inputs["layer"].data_ptr()
            with _prune_inputs(norm, make_selector(examples)):
                logits = call_model(model, examples).logits
    except Exception:  # whatever a network raises that makes something else of its hidden states
        return
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    if not expected.any() or make_selector(examples)(full_input).shape == full_input.shape:
        del _last_norms[model]
    elif logits.shape == expected.shape and not pre_norm:
        tolerance = (1e-3 if logits.dtype == torch.float32 else 5e-2) * float(expected.abs().max())
        _last_norms[model] = norm if float((logits - expected).abs().max()) <= tolerance else None
