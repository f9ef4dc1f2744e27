"""Which positions of a call's logits are compared, and with which labels."""

import inspect
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lightning_kd import models
from lightning_kd.callbacks.distillation.call_recorder import Call, unwrap_compiled
from lightning_kd.outputs import IGNORE_INDEX

SINGLE_SEQUENCE_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""Ends of the names of networks whose logits are not those of a decoder, even if they have one."""


def is_sequence_to_sequence(model: nn.Module) -> bool:
    """Whether it reads one sequence and writes another."""
    model = unwrap_compiled(model)
    return (
        getattr(models.get_config(model), "is_encoder_decoder", False)
        and "decoder_input_ids" in inspect.signature(model.forward).parameters
        and not type(model).__name__.endswith(SINGLE_SEQUENCE_HEADS)
    )


def align_tokens_and_labels(call: Call, model: nn.Module, labels: list[Tensor]) -> tuple[Call, list[Tensor]]:
    """The call with the positions that count, and the labels of these positions.

    The ``attention_mask`` says what is padding. An encoder-decoder is a case of its own: its logits stand at the
    decoder's positions, whose inputs it makes of the labels, which the teacher is not given. So is a causal language
    model, which compares the scores at a position with the next label.

    Args:
        call: As it was recorded.
        model: What was called.
        labels: Those of the batch, one for each head, or none.

    Raises:
        ValueError: If it cannot be known which positions or labels belong together.
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
            f"{field}: {name} is called with neither labels nor decoder_attention_mask, so it is not known which of "
            "the decoder's positions are padding; pass one of them in training_step"
        )
    if arguments.get("decoder_input_ids") is None and arguments.get("decoder_inputs_embeds") is None:
        if targets is None or not hasattr(model, "prepare_decoder_input_ids_from_labels"):
            raise ValueError(
                f"{field}: {name} makes the decoder's inputs itself, which the teacher needs, too; pass "
                "decoder_input_ids in training_step"
            )
        call = replace(call, args=(), argument_names=[], kwargs=arguments)
        call.kwargs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(targets)
    token_mask = None if mask is None else mask.bool()
    if targets is not None:
        token_mask = targets != IGNORE_INDEX if token_mask is None else token_mask & (targets != IGNORE_INDEX)
    return replace(call, token_mask=token_mask)


def _shift_labels(labels: Tensor, call: Call, model: nn.Module) -> Tensor:
    """Where the network compares with the next label, the labels one to the left, and none where padding is in play."""
    name = type(model).__name__
    loss = model.loss_function if isinstance(model, transformers.PreTrainedModel) else None
    causal = getattr(loss, "__name__", "") == "ForCausalLMLoss"
    if labels.ndim != 2 or (not causal and not name.endswith(("ForCausalLM", "LMHeadModel"))):
        return labels
    if call.named_arguments.get("labels") is None:
        raise ValueError(
            f"DistillationCallback.labels: {name} is called without labels, so it is not known whether those of the "
            "batch are of the same or of the next position; pass them to the network in training_step, or leave labels "
            "out here"
        )
    if "loss_function" not in inspect.unwrap(type(model).forward).__code__.co_names:
        raise ValueError(
            f"DistillationCallback.labels: {name} computes its loss in a way of its own, so it is not known whether it "
            "shifts the labels; leave labels out"
        )
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    if call.token_mask is not None and call.token_mask.shape == labels.shape:
        shifted[:, :-1][~call.token_mask[:, 1:]] = IGNORE_INDEX
    return shifted
