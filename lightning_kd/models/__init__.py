"""Load, build, inspect and call models."""

from lightning_kd.models.calling import call_model, input_names
from lightning_kd.models.inspection import (
    build_on_meta,
    count_parameters,
    encoder_layers,
    get_attn_implementation,
    get_config,
    has_fixed_placement,
    max_positions,
    model_dims,
    unwrap_compiled,
)
from lightning_kd.models.labels import check_num_labels, get_id2label, set_label_names
from lightning_kd.models.loaded_weights import fresh_head_error
from lightning_kd.models.loading import (
    Model,
    find_code_option,
    load_config,
    load_for_training,
    load_model,
    load_tokenizer,
    load_tokenizers,
    parse_pretrained,
)
from lightning_kd.models.student import (
    build_student,
    config_to_dict,
    is_saved_config,
    parse_student,
    pretrained_config,
    student_config,
    student_fields,
)

__all__ = [
    "Model",
    "build_on_meta",
    "build_student",
    "call_model",
    "check_num_labels",
    "config_to_dict",
    "count_parameters",
    "encoder_layers",
    "find_code_option",
    "fresh_head_error",
    "get_attn_implementation",
    "get_config",
    "get_id2label",
    "has_fixed_placement",
    "input_names",
    "is_saved_config",
    "load_config",
    "load_for_training",
    "load_model",
    "load_tokenizer",
    "load_tokenizers",
    "max_positions",
    "model_dims",
    "parse_pretrained",
    "parse_student",
    "pretrained_config",
    "set_label_names",
    "student_config",
    "student_fields",
    "unwrap_compiled",
]
