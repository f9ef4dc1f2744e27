"""Load models, configurations and tokenizers from the Hugging Face Hub or a folder."""

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from lightning_kd.io.serialization import is_serializable
from lightning_kd.models.labels import set_config_labels
from lightning_kd.models.loaded_weights import check_body, fresh_head_error

if TYPE_CHECKING:
    Model = nn.Module
else:
    # annotates arguments: with nn.Module, --help would list hundreds of PyTorch modules
    Model = Callable[..., Any]

HUB_KWARGS = ("revision", "subfolder", "trust_remote_code", "cache_dir")
"""Options of ``from_pretrained`` that also locate the configuration and the tokenizer."""

CODE_OPTIONS = ("trust_remote_code", "use_kernels", "allow_all_kernels", "auto_map")
"""Fields of a configuration, and options of ``from_pretrained``, that let a repository's code run."""

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def parse_pretrained(source: Any, role: str) -> tuple[Any, dict[str, Any]]:
    """Split the source of a pretrained model into its location and the options of ``from_pretrained``.

    Args:
        source: Hub id, folder or module; or ``{"pretrained": <Hub id or folder>, <option>: <value>, ...}``.
        role: Name of the argument, for error messages.

    Returns:
        The Hub id or folder as text, or the module; and the options as plain data.

    Raises:
        ValueError: If a mapping lacks ``pretrained``, or has ``config`` or a token, if a module is combined with
            options, or if an option cannot be saved in a checkpoint.
    """
    options = dict(source) if isinstance(source, Mapping) else {"pretrained": source}
    check_no_token(options, role)
    pretrained = options.pop("pretrained", None)
    if pretrained is None:
        raise ValueError(
            f"{role}: a mapping needs the key 'pretrained' (a Hub id or folder), got {sorted(options)}; the other keys "
            "are options of from_pretrained, such as dtype or quantization_config"
        )
    if "config" in options:
        raise ValueError(
            f"{role}: has both 'pretrained' and 'config'; use 'pretrained' to load weights, 'config' (students only) "
            "to start from fresh ones"
        )
    if isinstance(pretrained, os.PathLike):
        pretrained = os.fspath(pretrained)
    if options and not isinstance(pretrained, str):
        raise ValueError(
            f"{role}.pretrained: must be a Hub id or folder, got {type(pretrained).__name__}; pass a loaded module "
            "without options"
        )
    return pretrained, {name: _to_plain_data(value, f"{role}.{name}") for name, value in options.items()}


def check_no_token(options: Mapping[str, Any], role: str) -> None:
    """Check that no secret would be written to config.yaml, logs and checkpoints.

    Raises:
        ValueError: If there is a token; the message does not repeat it.
    """
    for name in options.keys() & {"token", "use_auth_token"}:
        raise ValueError(
            f"{role}.{name}: would be saved in config.yaml, logs and checkpoints; remove it, and set the environment "
            "variable HF_TOKEN or run hf auth login"
        )


def _to_plain_data(value: Any, field: str) -> Any:
    plain = value.to_dict() if hasattr(value, "to_dict") else value
    if isinstance(plain, torch.dtype):
        plain = str(plain).removeprefix("torch.")
    if not is_serializable(plain):
        raise ValueError(
            f"{field}: {type(value).__name__} cannot be saved in a checkpoint; use text, numbers, lists and mappings, "
            "or load the model yourself and pass the module"
        )
    return plain


def find_code_option(value: Any) -> str | None:
    """Return the first option, or field of a configuration, by which downloaded code would run; None if there is none.

    Args:
        value: Plain data, searched at all depths.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            names_repository = "attn_implementation" in str(name) and "/" in str(part)
            if part and (name in CODE_OPTIONS or names_repository):
                return f"{name}: {part!r:.60}"
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((found for part in parts if (found := find_code_option(part)) is not None), None)


@contextmanager
def _loading_errors(role: str, source: str, options: Mapping[str, Any] = NO_OPTIONS) -> Iterator[None]:
    """Re-raise any loading error in one line that names the model, its source and a remedy.

    Raises:
        OSError: If the source cannot be found or read.
        ValueError: If ``from_pretrained`` does not know one of the options.
    """
    try:
        yield
    except Exception as error:  # parsers raise all kinds of exceptions for broken files
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in options:
            raise ValueError(
                f"{role}.{unknown[1]}: from_pretrained has no such option; remove it (pretrained weights keep their "
                "configuration; for a student with fewer layers, use {config: ..., num_hidden_layers: ...} and "
                "LayerInitialization)"
            ) from error
        if not Path(source).exists():
            raise OSError(
                f"{role} {source!r} is neither a local folder nor available from the Hub; check the name and the "
                "connection, or use the path of a local folder"
            ) from error
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        detail = " ".join(str(error).split())
        raise OSError(
            f"{role} {source!r} exists but cannot be loaded: {kind}{detail:.300}; copy or download it again, or use "
            "another"
        ) from error


def hub_kwargs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of ``from_pretrained`` that also locate the configuration and the tokenizer."""
    # False, not None: transformers would ask on the terminal whether to run the code of a repository
    return {"trust_remote_code": False} | {name: options[name] for name in HUB_KWARGS if name in options}


def is_hub_id(source: Any) -> bool:
    """Return True if a source is the name of something that may be on the Hub, and of no local file or folder."""
    return isinstance(source, str) and not Path(source).expanduser().exists()


def find_commit(source: str, role: str, options: Mapping[str, Any] = NO_OPTIONS) -> str | None:
    """Return the commit of a Hub id to which its revision points now; None for a folder.

    Args:
        source: Hub id or folder.
        role: Name of the model in error messages.
        options: Arguments of ``from_pretrained``, of which ``revision``, ``subfolder`` and ``cache_dir`` are used.

    Raises:
        OSError: If there is no such model.
    """
    if not is_hub_id(source):
        return None
    kwargs = {name: options[name] for name in ("revision", "subfolder", "cache_dir") if name in options}
    with _loading_errors(role, source):
        parts = Path(hf_hub_download(source, "config.json", **kwargs)).parts
    # the last one: the cache's own path may have another
    return parts[len(parts) - parts[::-1].index("snapshots")]  # .../snapshots/<commit>/config.json


def pin_revisions(source: Any, role: str) -> Any:
    """Return the source of models with the commit of each Hub id as its ``revision``.

    Args:
        source: See ``parse_pretrained``, or a list or an ensemble of these; any other value is returned as it is.
        role: Name of the argument, for error messages.

    Raises:
        OSError: If there is no such model.
    """
    if isinstance(source, (list, tuple)):
        return [pin_revisions(part, role) for part in source]
    if isinstance(source, Mapping) and "ensemble" in source:
        return {**source, "ensemble": pin_revisions(source["ensemble"], role)}
    if not (isinstance(source, str) or (isinstance(source, Mapping) and "pretrained" in source)):
        return source
    pretrained, options = parse_pretrained(source, role)
    commit = find_commit(pretrained, role, options) if isinstance(pretrained, str) else None
    return source if commit is None else {"pretrained": pretrained, **options, "revision": commit}


def load_config(source: str, role: str, options: Mapping[str, Any] = NO_OPTIONS) -> PretrainedConfig:
    """Load the configuration of a model.

    Args:
        source: Hub id or folder.
        role: Name of the model in error messages.
        options: Arguments of ``from_pretrained``, of which ``HUB_KWARGS`` are used.

    Raises:
        OSError: If it cannot be loaded.
    """
    with _loading_errors(role, source):
        config: PretrainedConfig = AutoConfig.from_pretrained(source, **hub_kwargs(options))
    return config


def load_tokenizer(source: str, role: str, options: Mapping[str, Any] = NO_OPTIONS) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        source: Hub id or folder.
        role: Name of the tokenizer in error messages.
        options: Arguments of ``from_pretrained``, of which ``HUB_KWARGS`` are used.

    Raises:
        OSError: If it cannot be loaded, or has no vocabulary.
    """
    with _loading_errors(role, source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **hub_kwargs(options))
        if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
            # from a folder without tokenizer files, transformers 5 builds one with special tokens only
            raise ValueError("it has no vocabulary, such as tokenizer.json")
    return tokenizer


def load_tokenizers(tokenizers: str | PreTrainedTokenizerBase | list[str]) -> list[PreTrainedTokenizerBase]:
    """Load the tokenizers of a teacher: one for all of its models, or one for each.

    Raises:
        OSError: If one cannot be loaded.
        ValueError: If the list is empty.
    """
    sources = tokenizers if isinstance(tokenizers, list) else [tokenizers]
    if not sources:
        raise ValueError("data.teacher_tokenizer: the list is empty; use one tokenizer per teacher model, or null")
    return [
        source if isinstance(source, PreTrainedTokenizerBase) else load_tokenizer(str(source), "data.teacher_tokenizer")
        for source in sources
    ]


def load_model(
    source: str, auto_class: str, role: str, options: Mapping[str, Any] = NO_OPTIONS, requires_head: bool = True
) -> "transformers.PreTrainedModel":
    """Load a pretrained model that is used as it is, such as a teacher.

    Args:
        source: Hub id or folder.
        auto_class: Name of the transformers class, such as ``AutoModelForSequenceClassification``.
        role: Name of the model in error messages, such as ``teacher``.
        options: Further arguments of ``from_pretrained``, as plain data.
        requires_head: If True, the checkpoint must have the weights of the head.

    Returns:
        The model, see ``load_for_training``.

    Raises:
        OSError: If it cannot be loaded.
        ValueError: If weights are missing, have another shape or are left over, or an option is unknown.
    """
    model, fresh = load_for_training(source, auto_class, role, None, options)
    if requires_head and fresh:
        raise fresh_head_error(fresh, role, source)
    return model


def load_for_training(
    source: str,
    auto_class: str,
    role: str,
    labels: list[str] | int | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> "tuple[transformers.PreTrainedModel, list[str]]":
    """Load a pretrained model with the head of a task, which may be a fresh one.

    Args:
        source: Hub id or folder.
        auto_class: Name of the transformers class, such as ``AutoModelForSequenceClassification``.
        role: Name of the model in error messages, such as ``student``.
        labels: Class names, or their number; a head of another size is replaced by a fresh one. None = as saved.
        options: Further arguments of ``from_pretrained``, as plain data.

    Returns:
        The model, in float32 unless the options set a ``dtype``, and in eval mode (as from ``from_pretrained``); and
        the names of its fresh weights, in the head (or the pooler) only.

    Raises:
        OSError: If it cannot be loaded.
        ValueError: If weights of the body are missing, have another shape or are left over, or an option is unknown.
    """
    if (option := find_code_option(options)) is not None:
        rank_zero_warn(f"{role}: {option} runs code of {source!r}")
    config = load_config(source, role, options)
    if labels is not None:
        set_config_labels(config, labels)
    kwargs = {
        "dtype": "float32",
        "trust_remote_code": False,
        **copy.deepcopy(dict(options)),
    }  # transformers empties nested mappings
    with _loading_errors(role, source, options):
        model, loading_info = getattr(transformers, auto_class).from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
        )
    return model, check_body(model, loading_info, auto_class == "AutoModel", f"{role} {source!r}")
