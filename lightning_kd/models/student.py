"""Build students: with pretrained weights, or from a configuration with fresh ones."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from lightning_kd.models.inspection import get_attn_implementation, get_config
from lightning_kd.models.labels import set_config_labels
from lightning_kd.models.loading import (
    check_no_token,
    find_code_option,
    load_config,
    load_for_training,
    parse_pretrained,
)

TEACHER_OPTIONS = {
    "device_map": "Lightning places the student",
    "quantization_config": "quantized weights cannot be trained",
    "trust_remote_code": "a checkpoint cannot rebuild a model of remote code",
}
"""Options of ``from_pretrained`` for teachers only, and why."""

SIZE_FIELDS = ("model_type", "num_hidden_layers", "hidden_size")


def parse_student(student: Any) -> str | dict[str, Any] | nn.Module:
    """Check the source of a student and return it as plain data.

    Args:
        student: Hub id or folder, or ``{"pretrained": <Hub id or folder>, <option of from_pretrained>: ...}``, to load
            weights. ``{"config": <Hub id or folder>, <field>: <value>, ...}``, that model's configuration with some
            fields replaced, or ``{"config": {...}}``, a complete configuration as saved in checkpoints, to start from
            fresh weights. Or a module.

    Raises:
        ValueError: If a mapping has neither or both of the keys ``pretrained`` and ``config``, fields beside a complete
            configuration, or an option that only teachers can have.
    """
    if isinstance(student, Mapping) and "pretrained" not in student:
        check_no_token(student, "student")
        if "config" not in student:
            raise ValueError(
                f"student: a mapping needs the key 'pretrained' (a Hub id or folder, to load weights) or 'config' (to "
                f"start from fresh ones), got {sorted(student)}"
            )
        fields = sorted(set(student) - {"config"})
        if fields and isinstance(student["config"], Mapping):
            raise ValueError(
                f"student.{fields[0]}: cannot be combined with a complete configuration; move it into student.config"
            )
        return dict(student)
    source, options = parse_pretrained(student, "student")
    for name in options.keys() & TEACHER_OPTIONS.keys():
        raise ValueError(f"student.{name}: {TEACHER_OPTIONS[name]}; remove it, or pass the model as a module")
    return {"pretrained": source, **options} if options else source


def is_saved_config(student: Any) -> bool:
    """Return True if a student is a complete configuration, as saved in checkpoints."""
    return isinstance(student, Mapping) and isinstance(student.get("config"), Mapping)


def _is_pretrained(student: Any) -> bool:
    return isinstance(student, str) or (isinstance(student, Mapping) and "pretrained" in student)


def student_config(student: Mapping[str, Any]) -> PretrainedConfig:
    """Return the configuration of a student with fresh weights.

    Args:
        student: A mapping with the key ``config``, see ``parse_student``.

    Raises:
        OSError: If the configuration cannot be loaded.
        ValueError: If it does not have one of the fields, or no layer, or a saved configuration would load code.
    """
    if is_saved_config(student):
        fields = dict(student["config"])
        option = find_code_option(fields) or ("quantization_config" if fields.get("quantization_config") else None)
        if option is not None:
            raise ValueError(
                f"student.config.{option}: not taken from a checkpoint, since it may load code; pass student="
            )
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    fields = dict(student)
    config = load_config(str(fields.pop("config")), "student config")
    for field, value in fields.items():
        if not hasattr(config, field):
            raise ValueError(
                f"student.{field}: {type(config).__name__} has no such field; "
                f"it has {', '.join(sorted(name for name in config.to_dict() if not name.startswith('_')))}"
            )
        setattr(config, field, value)
    num_layers = getattr(config, "num_hidden_layers", None)
    if isinstance(num_layers, int) and num_layers < 1:
        raise ValueError(f"student.num_hidden_layers: must be >= 1, got {num_layers}")
    return config


def pretrained_config(student: str | Mapping[str, Any] | nn.Module) -> PretrainedConfig | None:
    """Return the configuration of a student that has weights; None if it starts from fresh ones."""
    if _is_pretrained(student):
        source, options = parse_pretrained(student, "student")
        return load_config(source, "student", options)
    return get_config(student) if isinstance(student, nn.Module) else None


def student_fields(student: Any) -> dict[str, Any] | None:
    """Return what a source says about a student's architecture, without building it; None if it is not available.

    Fields that are neither given nor in ``SIZE_FIELDS`` are left out: they may come from another version of
    transformers, or change later, as the size of the vocabulary.
    """
    student = parse_student(student)
    try:
        config = pretrained_config(student) or student_config(student)
    except OSError:
        return None
    given = student.get("config") if is_saved_config(student) else student
    names = {*SIZE_FIELDS, *(given if isinstance(given, Mapping) else ())}
    return {name: value for name, value in config.to_dict().items() if name in names}


def build_student(
    student: str | Mapping[str, Any], auto_class: str, labels: list[str] | int | None
) -> "tuple[transformers.PreTrainedModel, list[str]]":
    """Build a student.

    Args:
        student: See ``parse_student``; not a module.
        auto_class: Name of the transformers class, such as ``AutoModelForSequenceClassification``.
        labels: Class names, or their number; None = as in the source.

    Returns:
        The student; and the names of the weights that its source lacks, none without pretrained weights.

    Raises:
        OSError: If the source cannot be loaded.
        ValueError: If a field or option is unknown, or pretrained weights lack a part of the body.
    """
    if _is_pretrained(student):
        source, options = parse_pretrained(student, "student")
        return load_for_training(source, auto_class, "student", labels, options)
    assert isinstance(student, Mapping)
    config = student_config(student)
    if labels is not None:
        set_config_labels(config, labels)
    dtype = config.dtype if is_saved_config(student) else None
    model: transformers.PreTrainedModel = getattr(transformers, auto_class).from_config(
        config, dtype=dtype or torch.float32, trust_remote_code=False
    )
    return model, []


def config_to_dict(model: nn.Module) -> dict[str, Any] | None:
    """Return the configuration of a model as plain data, for ``{"config": {...}}``; None if it has none."""
    config = get_config(model)
    if not isinstance(config, PretrainedConfig):
        return None
    fields: dict[str, Any] = config.to_dict()
    fields.pop("auto_map", None)  # remote code, which students do not run
    # to_dict leaves it out (transformers 5.24), and a resumed run must use the same kernels
    if (attention := get_attn_implementation(config)) not in (None, "sdpa"):
        fields["attn_implementation"] = attention
    return fields
