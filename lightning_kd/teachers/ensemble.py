"""Ensembles: combine the predictions of several models into one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_kd.losses.base import masked_log_softmax
from lightning_kd.outputs import Head

CombineMode = Literal["logits", "probabilities", "confidence"]
"""Quantity to average: logits, probabilities, or probabilities weighted by confidence."""

COMBINE_MODES: tuple[str, ...] = get_args(CombineMode)


def parse_ensemble(source: Any) -> tuple[list[Any], CombineMode]:
    """Split the argument ``teacher`` into the sources of its models and how to combine them.

    Args:
        source: See ``Teacher``; a single source is an ensemble of one.

    Raises:
        ValueError: If there is no model, ``combine`` or a key is unknown, or ``ensemble`` is not a list.
    """
    combine: Any = "logits"
    if isinstance(source, Mapping) and "ensemble" in source:
        unknown = sorted(set(source) - {"ensemble", "combine"})
        if unknown:
            raise ValueError(f"teacher.{unknown[0]}: an ensemble has only the keys 'ensemble' and 'combine'; remove it")
        source, combine = source["ensemble"], source.get("combine", combine)
        if not isinstance(source, (list, tuple)):
            raise ValueError(f"teacher.ensemble: must be a list of models, got {type(source).__name__}")
    if combine not in COMBINE_MODES:
        raise ValueError(f"teacher.combine: must be one of {', '.join(COMBINE_MODES)}, got {combine!r}")
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise ValueError("teacher: the list is empty; give at least one model, or null for no teacher")
    return sources, combine


def combine_heads(heads: list[Head], combine: CombineMode) -> Head:
    """Combine the heads of K models into one.

    Each decision of a ``binary`` head is combined separately; ``value`` and ``vector`` heads are averaged.

    Args:
        heads: The head of each model; all have the same labels and mask.
        combine: Quantity to average.

    Raises:
        ValueError: If ``combine`` needs probabilities and the heads have none.
    """
    head = heads[0]
    if head.kind in ("value", "vector"):
        if combine != "logits":
            raise ValueError(f"teacher.combine: {combine!r} needs probabilities, not {head.kind!r} heads; use logits")
        return replace(head, logits=combine_logits([other.logits for other in heads], None, combine))
    views = [other.as_categorical() for other in heads]
    logits = combine_logits([view.logits for view in views], views[0].mask, combine)
    if head.kind == "binary":
        logits = (logits[:, 1] - logits[:, 0]).view_as(head.logits)
    return replace(head, logits=logits)


def combine_logits(logits: list[Tensor], mask: Tensor | None, combine: CombineMode) -> Tensor:
    r"""Combine the logits of K models.

    ``logits`` gives the geometric mean of the distributions, ``probabilities`` their arithmetic mean (Hinton et al.
    2015, section 1). The logarithm of the mean is returned, so a temperature softens the mean. ``confidence`` is an
    arithmetic mean weighted per target: models with a higher entropy H (nats) get a lower weight,

    .. math:: w_k = \frac{1}{K - 1} \left(1 - \frac{\exp H_k}{\sum_j \exp H_j}\right)

    Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, equation 3, with the entropy in place of
    the cross-entropy with the label, so that examples need no label.

    Args:
        logits: K >= 2 tensors (N, C), any floating dtype; computed in float32.
        mask: (N, C), True = included; None = all.
        combine: Quantity to average.

    Returns:
        Float32 logits (N, C); masked classes get the lowest logit of their target.
    """
    if combine == "logits":
        return torch.stack([z.float() for z in logits]).mean(dim=0)
    # a target without included classes would be all -inf
    class_mask = None if mask is None else mask | ~mask.any(dim=-1, keepdim=True)
    log_p = torch.stack([masked_log_softmax(z.float(), class_mask) for z in logits])
    if combine == "confidence":
        entropy = -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=-1)  # 0 log 0 = 0
        weights = (1 - entropy.softmax(dim=0)) / (len(logits) - 1)
        log_p = log_p + weights.log().unsqueeze(-1)
        mean = torch.logsumexp(log_p, dim=0)
    else:
        mean = torch.logsumexp(log_p, dim=0) - torch.log(torch.tensor(float(len(logits))))
    # finite, so that losses stay finite at masked classes too
    lowest = mean.masked_fill(mean == -torch.inf, torch.inf).amin(dim=-1, keepdim=True)
    return torch.maximum(mean, lowest)
