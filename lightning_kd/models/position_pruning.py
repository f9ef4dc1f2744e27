"""Skip computation at sequence positions that no head uses."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from lightning_kd.models.calling import call_model
from lightning_kd.models.inspection import encoder_layers, unwrap_compiled
from lightning_kd.outputs import Batch

PositionSelector = Callable[[Tensor], Tensor]
"""Selects positions of hidden states (B, L, H)."""

PROBE_EXAMPLES = 2

_last_norms: WeakKeyDictionary[nn.Module, nn.LayerNorm | None] = WeakKeyDictionary()
"""For each probed model the norm before which the last layer can be pruned; None = it cannot."""


def prune_positions(
    model: nn.Module,
    make_selector: Callable[[Batch], PositionSelector],
    batch: Batch,
    prune_before_head: bool,
    output_hidden_states: bool,
) -> AbstractContextManager[Any]:
    """Return a context in which a model computes only selected positions from its last attention on.

    The last layer of a post-norm encoder (such as BERT) needs the other positions only up to its attention; two thirds
    of its multiplications come later. Each model is probed once, on a few examples of its first batch: if its logits
    do not change, its last layer can be pruned.

    Args:
        model: Runs once within the context.
        make_selector: Returns the selector for a batch.
        batch: The batch on which the model runs.
        prune_before_head: If True, prune before the head where the last layer cannot be pruned.
        output_hidden_states: If True, do not prune the last layer, because its hidden states are used.
    """
    if not output_hidden_states and model not in _last_norms:
        _probe(model, make_selector, batch, prune_before_head)
    norm = None if output_hidden_states else _last_norms.get(model)
    if norm is not None:
        return _prune_inputs(norm, make_selector(batch))
    return _prune_encoder_output(model, make_selector(batch)) if prune_before_head else nullcontext()


def _prune_inputs(module: nn.Module, select: PositionSelector) -> AbstractContextManager[Any]:
    return module.register_forward_pre_hook(lambda module, args: (select(args[0]),))


def _prune_encoder_output(model: nn.Module, select: PositionSelector) -> AbstractContextManager[Any]:
    """Prune the output of a transformers encoder, and thus the input of its head."""
    model = unwrap_compiled(model)
    encoder = model.base_model if isinstance(model, transformers.PreTrainedModel) else model
    if encoder is model:
        return nullcontext()

    def prune(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = select(output.last_hidden_state)
        return output

    return encoder.register_forward_hook(prune)


@torch.no_grad()
def _probe(
    model: nn.Module, make_selector: Callable[[Batch], PositionSelector], batch: Batch, prune_before_head: bool
) -> None:
    """Record the first norm of the last layer in ``_last_norms`` if pruning its input leaves the logits unchanged.

    Record nothing, so that the next batch is probed, if all logits are 0 or no position is pruned. Pre-norm models are
    recognized by their first norm, whose input is the input of the layer; in half precision their logits may not differ
    enough to tell.
    """
    _last_norms[model] = None
    # torch.compile would recompile for each hook, checkpointed layers recompute without hooks, and a sharded model
    # would have to be probed on all devices at once
    checkpointed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    supported = isinstance(model, transformers.PreTrainedModel) and not isinstance(model, FSDPModule)
    stack = encoder_layers(model) if supported and not checkpointed else None
    if stack is None:
        return
    layer = stack[1][-1]
    norm = next((module for module in layer.modules() if isinstance(module, nn.LayerNorm)), None)
    if norm is None:
        return
    examples = {
        name: value[:PROBE_EXAMPLES] for name, value in batch.items() if isinstance(value, Tensor) and value.ndim
    }
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    inputs: dict[str, Tensor] = {}

    def record_layer_input(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        inputs["layer"] = args[0] if args else kwargs["hidden_states"]

    def record_norm_input(module: nn.Module, args: Any) -> None:
        inputs["norm"] = args[0]

    try:
        with (
            layer.register_forward_pre_hook(record_layer_input, with_kwargs=True),
            norm.register_forward_pre_hook(record_norm_input),
            torch.autocast(batch["input_ids"].device.type, enabled=False),
        ):
            with _prune_encoder_output(model, make_selector(examples)) if prune_before_head else nullcontext():
                expected = call_model(model, examples).logits
            full_input, pre_norm = inputs["norm"], inputs["norm"].data_ptr() == inputs["layer"].data_ptr()
            with _prune_inputs(norm, make_selector(examples)):
                logits = call_model(model, examples).logits
    except Exception:  # an unknown architecture may fail in any way on pruned hidden states
        return
    finally:
        for module, training in modes:
            module.training = training
    if not expected.any() or make_selector(examples)(full_input).shape == full_input.shape:
        del _last_norms[model]
    elif logits.shape == expected.shape and not pre_norm:
        tolerance = (1e-3 if logits.dtype == torch.float32 else 5e-2) * float(expected.abs().max())
        _last_norms[model] = norm if float((logits - expected).abs().max()) <= tolerance else None
