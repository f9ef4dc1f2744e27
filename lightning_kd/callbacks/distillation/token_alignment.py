"""Which positions of a call's logits are compared, and with which labels."""

import inspect
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lightning_kd.callbacks.distillation.call_recorder import Call, original
from lightning_kd.outputs import IGNORED

ONE_SEQUENCE = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""Ends of the names of networks whose logits are not those of a decoder, even if they have one."""


def is_sequence_to_sequence(network: nn.Module) -> bool:
    """Whether it reads one sequence and writes another."""
    network = original(network)
    return (
        getattr(getattr(network, "config", None), "is_encoder_decoder", False)
        and "decoder_input_ids" in inspect.signature(network.forward).parameters
        and not type(network).__name__.endswith(ONE_SEQUENCE)
    )


def settled(call: Call, network: nn.Module, labels: list[Tensor]) -> tuple[Call, list[Tensor]]:
    """The call with the positions that count, and the labels of these positions.

    The ``attention_mask`` says what is padding. An encoder-decoder is a case of its own: its logits stand at the
    decoder's positions, whose inputs it makes of the labels, which the teacher is not given. So is a causal language
    model, which compares the scores at a position with the next label.

    Args:
        call: As it was recorded.
        network: What was called.
        labels: Those of the batch, one for each head, or none.

    Raises:
        ValueError: If it cannot be known which positions or labels belong together.
    """
    network = original(network)
    call = replace(call, classes_last=isinstance(network, transformers.PreTrainedModel))
    if is_sequence_to_sequence(network):
        return _with_decoder_inputs(call, network, bool(labels)), labels
    mask = call.by_name.get("attention_mask")
    call = replace(call, tokens=mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None)
    return call, [_of_next(label, call, network) for label in labels]


def _with_decoder_inputs(call: Call, network: Any, has_labels: bool) -> Call:
    field, name = "DistillationCallback.student", type(network).__name__
    given = call.by_name
    targets, mask = given.get("labels"), given.get("decoder_attention_mask")
    if targets is None and mask is None and not has_labels:
        raise ValueError(
            f"{field}: {name} is called with neither labels nor decoder_attention_mask, so it is not known which of "
            "the decoder's positions are padding; pass one of them in training_step"
        )
    if given.get("decoder_input_ids") is None and given.get("decoder_inputs_embeds") is None:
        if targets is None or not hasattr(network, "prepare_decoder_input_ids_from_labels"):
            raise ValueError(
                f"{field}: {name} makes the decoder's inputs itself, which the teacher needs, too; pass "
                "decoder_input_ids in training_step"
            )
        call = replace(call, args=(), names=[], kwargs=given)
        call.kwargs["decoder_input_ids"] = network.prepare_decoder_input_ids_from_labels(targets)
    tokens = None if mask is None else mask.bool()
    if targets is not None:
        tokens = targets != IGNORED if tokens is None else tokens & (targets != IGNORED)
    return replace(call, tokens=tokens)


def _of_next(labels: Tensor, call: Call, network: nn.Module) -> Tensor:
    """Where the network compares with the next label, the labels one to the left, and none where padding is in play."""
    name = type(network).__name__
    loss = network.loss_function if isinstance(network, transformers.PreTrainedModel) else None
    causal = getattr(loss, "__name__", "") == "ForCausalLMLoss"
    if labels.ndim != 2 or (not causal and not name.endswith(("ForCausalLM", "LMHeadModel"))):
        return labels
    if call.by_name.get("labels") is None:
        raise ValueError(
            f"DistillationCallback.labels: {name} is called without labels, so it is not known whether those of the "
            "batch are of the same or of the next position; pass them to the network in training_step, or leave labels "
            "out here"
        )
    if "loss_function" not in inspect.unwrap(type(network).forward).__code__.co_names:
        raise ValueError(
            f"DistillationCallback.labels: {name} computes its loss in a way of its own, so it is not known whether it "
            "shifts the labels; leave labels out"
        )
    following = torch.full_like(labels, IGNORED)
    following[:, :-1] = labels[:, 1:]
    if call.tokens is not None and call.tokens.shape == labels.shape:
        following[:, :-1][~call.tokens[:, 1:]] = IGNORED
    return following
