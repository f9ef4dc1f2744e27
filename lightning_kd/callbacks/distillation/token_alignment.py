"""Select the positions of logits that are compared, and align labels with them."""

import inspect
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lightning_kd import models
from lightning_kd.callbacks.distillation.call_recorder import Call
from lightning_kd.models import unwrap_compiled
from lightning_kd.outputs import IGNORE_INDEX

SINGLE_SEQUENCE_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""Suffixes of encoder-decoder classes whose logits do not come from the decoder's language model head."""


def is_sequence_to_sequence(model: nn.Module) -> bool:
    """Return True if the model reads one sequence and generates another."""
    model = unwrap_compiled(model)
    return (
        getattr(models.get_config(model), "is_encoder_decoder", False)
        and "decoder_input_ids" in inspect.signature(model.forward).parameters
        and not type(model).__name__.endswith(SINGLE_SEQUENCE_HEADS)
    )


def align_tokens_and_labels(call: Call, model: nn.Module, labels: list[Tensor]) -> tuple[Call, list[Tensor]]:
    """Set the ``token_mask`` of a call and align the labels with its logits.

    The ``attention_mask`` marks padding. The logits of an encoder-decoder are at the decoder's positions, whose inputs
    are derived from the labels; these inputs are added to the call, because the teacher gets no labels. The labels of
    a causal language model are shifted, because it compares the logits at a position with the next label.

    Args:
        call: The recorded call.
        model: The model that was called.
        labels: Labels in the batch, one tensor per head, or none.

    Raises:
        ValueError: If the padding of the decoder or the alignment of the labels is unknown.
    """
    model = unwrap_compiled(model)
    call = replace(call, classes_last=isinstance(model, transformers.PreTrainedModel))
    if is_sequence_to_sequence(model):
        return _add_decoder_inputs(call, model, bool(labels)), labels
    mask = call.named_arguments.get("attention_mask")
    call = replace(call, token_mask=mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None)
    return call, [_shift_labels(label, call, model) for label in labels]


def _add_decoder_inputs(call: Call, model: Any, has_labels: bool) -> Call:
    field, name = "DistillationCallback.student", type(model).__name__
    arguments = call.named_arguments
    targets, mask = arguments.get("labels"), arguments.get("decoder_attention_mask")
    if targets is None and mask is None and not has_labels:
        raise ValueError(
            f"{field}: the padding of the decoder is unknown, because {name} is called without labels and "
            "decoder_attention_mask; pass one of them in training_step"
        )
    if arguments.get("decoder_input_ids") is None and arguments.get("decoder_inputs_embeds") is None:
        if targets is None or not hasattr(model, "prepare_decoder_input_ids_from_labels"):
            raise ValueError(
                f"{field}: {name} is called without decoder_input_ids, which the teacher needs; pass them in "
                "training_step"
            )
        call = replace(call, args=(), kwargs=arguments)
        call.kwargs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(targets)
    token_mask = None if mask is None else mask.bool()
    if targets is not None:
        token_mask = targets != IGNORE_INDEX if token_mask is None else token_mask & (targets != IGNORE_INDEX)
    return replace(call, token_mask=token_mask)


def _shift_labels(labels: Tensor, call: Call, model: nn.Module) -> Tensor:
    """Shift the labels of a causal language model one position to the left, and ignore the labels of padding."""
    field, name = "DistillationCallback.labels", type(model).__name__
    loss = model.loss_function if isinstance(model, transformers.PreTrainedModel) else None
    causal = getattr(loss, "__name__", "") == "ForCausalLMLoss"
    if labels.ndim != 2 or (not causal and not name.endswith(("ForCausalLM", "LMHeadModel"))):
        return labels
    if call.named_arguments.get("labels") is None:
        raise ValueError(
            f"{field}: {name} is called without labels, so it is unknown whether the labels in the batch are shifted "
            "already; pass them to the model in training_step, or remove labels here"
        )
    if "loss_function" not in inspect.unwrap(type(model).forward).__code__.co_names:
        raise ValueError(
            f"{field}: {name} does not use transformers' loss_function, so it is unknown whether it shifts the labels; "
            "remove labels"
        )
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    if call.token_mask is not None and call.token_mask.shape == labels.shape:
        shifted[:, :-1][~call.token_mask[:, 1:]] = IGNORE_INDEX
    return shifted
