"""Read the configuration, layers and sizes of a model."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from lightning_kd.outputs import ModelDims

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Families that number positions from ``pad_token_id + 1``."""


def get_config(model_or_config: Any) -> Any:
    """Return the configuration of a model, or a configuration unchanged; None for a module without one."""
    if isinstance(model_or_config, PretrainedConfig):
        return model_or_config
    return getattr(model_or_config, "config", None)


def get_attn_implementation(model_or_config: Any) -> Any:
    """Return the attention implementation of a model, such as ``sdpa``; None without a configuration."""
    # transformers (5.24) has a public setter only, PreTrainedModel.set_attn_implementation
    return getattr(get_config(model_or_config), "_attn_implementation", None)


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, or the model itself."""
    # torch (2.13) has no public name for it
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


def encoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Find the stack of encoder layers.

    Returns:
        Name and module of the first ``nn.ModuleList`` with ``num_hidden_layers`` entries; None without one, as in
        ALBERT, whose layers share their weights.
    """
    length = getattr(get_config(model), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return name, module
    return None


def model_dims(model: nn.Module) -> ModelDims | None:
    """Return the sizes of a model; None if its configuration lacks one of them."""
    config = get_config(model)
    sizes = [getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    return None if None in sizes else ModelDims(*map(int, sizes))  # type: ignore[arg-type]


def max_positions(model_or_config: Any) -> int | None:
    """Return the maximum number of tokens of a model's input; None if its configuration does not limit it."""
    config = get_config(model_or_config)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    return int(positions) - (config.pad_token_id + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters; tied parameters count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_on_meta(config: PretrainedConfig, auto_class: str, trust_remote_code: bool = False) -> nn.Module:
    """Build a model from its configuration on the meta device, without allocating its weights."""
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, auto_class).from_config(config, trust_remote_code=trust_remote_code)
    return model


def has_fixed_placement(model: nn.Module) -> bool:
    """Return True if a model is quantized or has a device map, so that it must be neither moved nor cast."""
    return bool(getattr(model, "is_quantized", False)) or getattr(model, "hf_device_map", None) is not None
