"""The only place that builds networks, and the one that calls them."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from lightning_kd.outputs import Batch, ModelDims

if TYPE_CHECKING:
    Model = nn.Module
else:
    # the type of arguments: with nn.Module the command line's help would list the hundreds of PyTorch's own modules
    Model = Callable[..., Any]


LABEL_KEYS = {"labels", "start_positions", "end_positions"}
"""Entries of a batch that are targets."""

TOKEN_TYPE_KEYS = {"token_type_ids"}


@contextmanager
def _loading_errors(role: str, source: str) -> Iterator[None]:
    """Turn whatever loading raises into an OSError that says what was loaded, from where, and what to do."""
    try:
        yield
    except Exception as error:  # a broken file raises whatever its parser raises
        if not Path(source).exists():
            raise OSError(
                f"{role} {source!r} is neither a folder here nor a model that the hub could give; "
                "check the name and the connection, or give the path of a local folder"
            ) from error
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        detail = " ".join(str(error).split())
        raise OSError(
            f"{role} {source!r} is on disk but cannot be loaded: {kind}{detail:.300}; "
            "copy or download it again, or name another"
        ) from error


HUB_KWARGS = ("revision", "subfolder", "trust_remote_code", "cache_dir")
"""Arguments of ``from_pretrained`` that configuration and tokenizer, too, are found with."""


def _hub_kwargs(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in HUB_KWARGS if name in options}


def load_config(source: str, role: str, options: Mapping[str, Any] = MappingProxyType({})) -> PretrainedConfig:
    """Read a network's configuration from a hub id or folder; see ``load_model`` for the arguments.

    Raises:
        OSError: If there is none; the message names ``role`` and the remedy.
    """
    with _loading_errors(role, source):
        config: PretrainedConfig = AutoConfig.from_pretrained(source, **_hub_kwargs(options))
    return config


def load_tokenizer(
    source: str, role: str, options: Mapping[str, Any] = MappingProxyType({})
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a hub id or folder.

    Raises:
        OSError: If there is none; the message names ``role`` and the remedy.
    """
    with _loading_errors(role, source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **_hub_kwargs(options))
        if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
            # what transformers 5 makes of a folder without tokenizer files
            raise ValueError("it has no vocabulary, such as tokenizer.json")
    return tokenizer


def load_tokenizers(tokenizers: str | PreTrainedTokenizerBase | list[str]) -> list[PreTrainedTokenizerBase]:
    """The tokenizers of a teacher's networks, one for all or one for each; see ``load_tokenizer`` for errors."""
    sources = tokenizers if isinstance(tokenizers, list) else [tokenizers]
    if not sources:
        raise ValueError("data.teacher_tokenizer: the list is empty; name a tokenizer for each network, or null")
    return [
        source if isinstance(source, PreTrainedTokenizerBase) else load_tokenizer(str(source), "data.teacher_tokenizer")
        for source in sources
    ]


def load_model(
    source: str,
    auto_class: str,
    role: str,
    labels: list[str] | int | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> "transformers.PreTrainedModel":
    """Load a pretrained network with the head of a task.

    Args:
        source: Hub id or folder.
        auto_class: Name of the transformers class, such as ``AutoModelForSequenceClassification``.
        role: What the network is to the user (``student``, ``teacher``), for error messages.
        labels: Names of the classes, or their number; a head of another size is replaced by a fresh one. None = as
            saved.
        options: Further arguments of ``from_pretrained``, as plain data.

    Returns:
        The network in float32 unless the options say otherwise, in eval mode as ``from_pretrained`` leaves it.

    Raises:
        OSError: If it cannot be loaded.
    """
    config = load_config(source, role, options)
    if labels is not None:
        set_config_labels(config, labels)
    arguments = {"dtype": "float32", **copy.deepcopy(dict(options))}  # transformers empties mappings
    with _loading_errors(role, source):
        model: transformers.PreTrainedModel = getattr(transformers, auto_class).from_pretrained(
            source, config=config, ignore_mismatched_sizes=labels is not None, **arguments
        )
    return model


def has_fixed_placement(model: nn.Module) -> bool:
    """Whether a network is quantised or spread over devices, so that it is neither moved nor cast."""
    return bool(getattr(model, "is_quantized", False)) or getattr(model, "hf_device_map", None) is not None


def student_config(student: Mapping[str, Any]) -> PretrainedConfig:
    """Turn the mapping form of a student into a configuration.

    Args:
        student: ``{"config": <hub id or folder>, <field>: <value>, ...}``: that model's configuration with fields
            replaced; or ``{"config": {...}}``: a whole configuration, as checkpoints save it.

    Raises:
        ValueError: If the mapping has neither form, or a field that the configuration does not know.
    """
    if is_saved_config(student):
        fields = dict(student["config"])
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    if "config" not in student:
        raise ValueError(f"student: a mapping needs the key 'config' (a hub id or folder), got {sorted(student)}")
    config = load_config(str(student["config"]), "student config")
    for field, value in student.items():
        if field == "config":
            continue
        if not hasattr(config, field):
            raise ValueError(
                f"student.{field}: {type(config).__name__} has no such field; "
                f"it has {', '.join(sorted(k for k in config.to_dict() if not k.startswith('_')))}"
            )
        setattr(config, field, value)
    return config


def pretrained_config(student: str | Mapping[str, Any] | nn.Module) -> PretrainedConfig | None:
    """The configuration of a student that comes with weights and maybe labels of its own; None for fresh weights."""
    if isinstance(student, str):
        return load_config(student, "student")
    return getattr(student, "config", None) if isinstance(student, nn.Module) else None


def is_saved_config(source: Any) -> bool:
    """Whether a student is given as a whole configuration, the form in which checkpoints save it."""
    return isinstance(source, Mapping) and set(source) == {"config"} and isinstance(source["config"], Mapping)


def build_student(
    student: str | Mapping[str, Any], auto_class: str, labels: list[str] | int | None
) -> "transformers.PreTrainedModel":
    """Build the student from its hub id or folder (pretrained weights) or its mapping (fresh weights).

    See ``load_model`` and ``student_config`` for the arguments and errors.
    """
    if isinstance(student, str):
        return load_model(student, auto_class, "student", labels)
    config = student_config(student)
    if labels is not None:
        set_config_labels(config, labels)
    model: transformers.PreTrainedModel = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    return model


def set_config_labels(config: PretrainedConfig, labels: list[str] | int) -> None:
    """Write the label names, and with them the number of labels, or the number alone into a configuration."""
    if isinstance(labels, int):
        config.num_labels = labels
    else:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: index for index, name in enumerate(labels)}


def set_label_names(model: nn.Module, label_names: list[str]) -> None:
    """Write the label names into the configuration of a network that was given as a module, if it has one.

    Raises:
        ValueError: If its head has another number of labels.
    """
    config = getattr(model, "config", None)
    if isinstance(config, PretrainedConfig):
        check_num_labels(config, len(label_names), "student")
        set_config_labels(config, label_names)


def check_num_labels(config: Any, expected: int, role: str) -> None:
    """Refuse a head of another size; a network without configuration is not asked.

    Raises:
        ValueError: Names the two sizes.
    """
    labels = getattr(config, "num_labels", expected)
    if labels != expected:
        raise ValueError(
            f"{role}: has a head of {labels} labels, {expected} are needed; train or build it with {expected}"
        )


def config_to_dict(model: nn.Module) -> dict[str, Any] | None:
    """A network's configuration as plain data, or None for a module without one."""
    config = getattr(model, "config", None)
    return config.to_dict() if isinstance(config, PretrainedConfig) else None


def get_id2label(model_or_config: Any) -> dict[int, str] | None:
    """The ``id2label`` of a network or configuration, or None where it has none."""
    config = getattr(model_or_config, "config", model_or_config)
    return getattr(config, "id2label", None)


def input_names(model: nn.Module, batch: Batch) -> list[str]:
    """Which entries of a batch a network takes, in its own order; labels are never among them.

    With labels a transformers network would compute a cross-entropy of its own.

    Args:
        model: A transformers network, or a module whose ``forward`` names what it takes or which has a list of
            ``input_names``.
        batch: The batch.
    """
    # a compiled network hides its arguments behind *args, **kwargs
    original = getattr(model, "_orig_mod", model)
    names = getattr(original, "input_names", None) or list(inspect.signature(original.forward).parameters)
    # RoBERTa's forward takes token types, and has an embedding for type 0 only
    excluded = (
        LABEL_KEYS
        if getattr(getattr(model, "config", None), "type_vocab_size", 2) >= 2
        else LABEL_KEYS | TOKEN_TYPE_KEYS
    )
    return [name for name in names if name in batch and name not in excluded]


def call_model(model: nn.Module, batch: Batch, **options: Any) -> Any:
    """Call a network with its ``input_names`` out of a batch.

    Args:
        model: A transformers network, or a module that takes entries of the batch by name.
        batch: The batch.
        options: Further arguments, such as ``output_hidden_states``.
    """
    return model(**{name: batch[name] for name in input_names(model, batch)}, **options)


def encoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Find the stack of encoder layers.

    Returns:
        The name of the ``nn.ModuleList`` that is as long as the configuration's ``num_hidden_layers``, and the
        list; None where there is none, as in ALBERT, whose layers share their weights.
    """
    length = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return name, module
    return None


def model_dims(model: nn.Module) -> ModelDims | None:
    """The sizes of a network, or None where its configuration does not say them."""
    config = getattr(model, "config", None)
    fields = [getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    return None if None in fields else ModelDims(*map(int, fields))  # type: ignore[arg-type]


def max_positions(config: Any) -> int | None:
    """How many tokens a network can read at once, or None where its configuration does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    # the first positions of these families are taken by padding
    reserved = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    return int(positions) - reserved


def count_model_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_parameters(config: PretrainedConfig, auto_class: str) -> int:
    """``count_model_parameters`` of the network that a configuration describes, without its weights."""
    with torch.device("meta"):
        return count_model_parameters(getattr(transformers, auto_class).from_config(config))
