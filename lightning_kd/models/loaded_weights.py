"""Check which weights of a model came from its checkpoint; transformers draws the others at random."""

from collections.abc import Mapping
from typing import Any

from torch import nn

MAX_NAMES = 3
"""Number of weights that an error names."""

BUFFERS = (".position_ids", ".token_type_ids")
"""Endings of the names of buffers, which old checkpoints have among their weights."""


def check_body(model: nn.Module, loading_info: Mapping[str, Any], is_base_model: bool, where: str) -> list[str]:
    """Check that the body of a model and the body in its checkpoint have the same weights.

    The body is the base model without its pooler, the head is everything else.

    Args:
        model: The model.
        loading_info: From ``from_pretrained`` with ``output_loading_info=True``.
        is_base_model: True if the model has no head, as from ``AutoModel``.
        where: Role and source of the model, for messages.

    Returns:
        Names of the weights of the head that were drawn at random, because the checkpoint has none, or another shape.

    Raises:
        ValueError: If weights of the body are missing, have another shape, or are left over.
    """
    missing = set(loading_info["missing_keys"])
    left_over = {name for name in loading_info["unexpected_keys"] if not name.endswith(BUFFERS)}
    mismatched = {name for name, *_ in loading_info["mismatched_keys"]}
    prefix = str(getattr(model, "base_model_prefix", ""))
    base_model = model if is_base_model else getattr(model, prefix, None)
    parts = set() if base_model is None else {name.partition(".")[0] for name in base_model.state_dict()}

    def is_body(name: str) -> bool:
        first, _, rest = name.partition(".")
        if first == prefix:
            return not rest.startswith("pooler.")
        # names of a base model, as in its checkpoint, have no prefix
        return first in parts - {"pooler"}

    problems = (
        (missing, "the checkpoint lacks", "copy or download it again, or use another"),
        (mismatched, "config.json gives another shape to", "restore its config.json, or use another"),
        (
            left_over,
            "config.json has no place for",
            "restore its config.json; for a student with fewer layers, use {config: ..., num_hidden_layers: ...} and "
            "LayerInitialization",
        ),
    )
    for names, problem, remedy in problems:
        if body := sorted(filter(is_body, names)):
            raise ValueError(f"{where}: {problem} {_format_names(body)} of the body; {remedy}")
    return [] if is_base_model else sorted(missing | mismatched)


def fresh_head_error(fresh: list[str], role: str, source: str) -> ValueError:
    """Return the error for a model that is used as it is, but whose head was drawn at random.

    Args:
        fresh: Names of the head's weights.
        role: Name of the model, such as ``teacher``.
        source: Hub id or folder.
    """
    return ValueError(
        f"{role} {source!r}: the checkpoint has no trained head, {_format_names(fresh)} would be random; fine-tune it "
        f"first with lightning-kd fit, model.student: {source} and model.teacher: null, or use another"
    )


def _format_names(names: list[str]) -> str:
    """Return the number of weights and the names of the first ones."""
    unit, more = "weight" if len(names) == 1 else "weights", ", ..." if len(names) > MAX_NAMES else ""
    return f"{len(names)} {unit} ({', '.join(names[:MAX_NAMES])}{more})"
