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

from lightning_kd.outputs import Batch, Shape

if TYPE_CHECKING:
    Network = nn.Module
else:
    # the type of arguments: with nn.Module the command line's help would list the hundreds of PyTorch's own modules
    Network = Callable[..., Any]


LABELS = {"labels", "start_positions", "end_positions"}
"""Entries of a batch that are targets."""

TOKEN_TYPES = {"token_type_ids"}


@contextmanager
def _explained(what: str, source: str) -> Iterator[None]:
    """Turn whatever loading raises into an OSError that says what was loaded, from where, and what to do."""
    try:
        yield
    except Exception as error:  # a broken file raises whatever its parser raises
        if not Path(source).exists():
            raise OSError(
                f"{what} {source!r} is neither a folder here nor a model that the hub could give; "
                "check the name and the connection, or give the path of a local folder"
            ) from error
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        detail = " ".join(str(error).split())
        raise OSError(
            f"{what} {source!r} is on disk but cannot be loaded: {kind}{detail:.300}; "
            "copy or download it again, or name another"
        ) from error


WHERE = ("revision", "subfolder", "trust_remote_code", "cache_dir")
"""Arguments of ``from_pretrained`` that configuration and tokenizer, too, are found with."""


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in WHERE if name in options}


def load_config(source: str, what: str, options: Mapping[str, Any] = MappingProxyType({})) -> PretrainedConfig:
    """Read a network's configuration from a hub id or folder; see ``load_network`` for the arguments.

    Raises:
        OSError: If there is none; the message names ``what`` and the remedy.
    """
    with _explained(what, source):
        config: PretrainedConfig = AutoConfig.from_pretrained(source, **_where(options))
    return config


def load_tokenizer(
    source: str, what: str, options: Mapping[str, Any] = MappingProxyType({})
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a hub id or folder.

    Raises:
        OSError: If there is none; the message names ``what`` and the remedy.
    """
    with _explained(what, source):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **_where(options))
        if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
            # what transformers 5 makes of a folder without tokenizer files
            raise ValueError("it has no vocabulary, such as tokenizer.json")
    return tokenizer


def load_tokenizers(given: str | PreTrainedTokenizerBase | list[str]) -> list[PreTrainedTokenizerBase]:
    """The tokenizers of a teacher's networks, one for all or one for each; see ``load_tokenizer`` for errors."""
    each = given if isinstance(given, list) else [given]
    if not each:
        raise ValueError("data.teacher_tokenizer: the list is empty; name a tokenizer for each network, or null")
    return [
        own if isinstance(own, PreTrainedTokenizerBase) else load_tokenizer(str(own), "data.teacher_tokenizer")
        for own in each
    ]


def load_network(
    source: str,
    auto_class: str,
    what: str,
    labels: list[str] | int | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> "transformers.PreTrainedModel":
    """Load a pretrained network with the head of a task.

    Args:
        source: Hub id or folder.
        auto_class: Name of the transformers class, such as ``AutoModelForSequenceClassification``.
        what: What the network is to the user (``student``, ``teacher``), for error messages.
        labels: Names of the classes, or their number; a head of another size is replaced by a fresh one. None = as
            saved.
        options: Further arguments of ``from_pretrained``, as plain data.

    Returns:
        The network in float32 unless the options say otherwise, in eval mode as ``from_pretrained`` leaves it.

    Raises:
        OSError: If it cannot be loaded.
    """
    config = load_config(source, what, options)
    if labels is not None:
        set_labels(config, labels)
    arguments = {"dtype": "float32", **copy.deepcopy(dict(options))}  # transformers empties mappings
    with _explained(what, source):
        network: transformers.PreTrainedModel = getattr(transformers, auto_class).from_pretrained(
            source, config=config, ignore_mismatched_sizes=labels is not None, **arguments
        )
    return network


def is_placed(network: nn.Module) -> bool:
    """Whether a network is quantised or spread over devices, so that it is neither moved nor cast."""
    return bool(getattr(network, "is_quantized", False)) or getattr(network, "hf_device_map", None) is not None


def student_config(student: Mapping[str, Any]) -> PretrainedConfig:
    """Turn the mapping form of a student into a configuration.

    Args:
        student: ``{"base": <hub id or folder>, <field>: <value>, ...}``: that model's configuration with fields
            replaced; or ``{"config": {...}}``: a whole configuration, as checkpoints save it.

    Raises:
        ValueError: If the mapping has neither form, or a field that the configuration does not know.
    """
    if is_saved_config(student):
        fields = dict(student["config"])
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    if "base" not in student:
        raise ValueError(f"student: a mapping needs the key 'base' (a hub id or folder), got {sorted(student)}")
    config = load_config(str(student["base"]), "student base")
    for field, value in student.items():
        if field == "base":
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
    return isinstance(source, Mapping) and set(source) == {"config"}


def build_student(
    student: str | Mapping[str, Any], auto_class: str, labels: list[str] | int | None
) -> "transformers.PreTrainedModel":
    """Build the student from its hub id or folder (pretrained weights) or its mapping (fresh weights).

    See ``load_network`` and ``student_config`` for the arguments and errors.
    """
    if isinstance(student, str):
        return load_network(student, auto_class, "student", labels)
    config = student_config(student)
    if labels is not None:
        set_labels(config, labels)
    network: transformers.PreTrainedModel = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
    return network


def set_labels(config: PretrainedConfig, labels: list[str] | int) -> None:
    """Write the label names, and with them the number of labels, or the number alone into a configuration."""
    if isinstance(labels, int):
        config.num_labels = labels
    else:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: index for index, name in enumerate(labels)}


def adopt_labels(network: nn.Module, label_names: list[str]) -> None:
    """Write the label names into the configuration of a network that was given as a module, if it has one.

    Raises:
        ValueError: If its head has another number of labels.
    """
    config = getattr(network, "config", None)
    if isinstance(config, PretrainedConfig):
        check_label_count(config, len(label_names), "student")
        set_labels(config, label_names)


def check_label_count(config: Any, needed: int, what: str) -> None:
    """Refuse a head of another size; a network without configuration is not asked.

    Raises:
        ValueError: Names the two sizes.
    """
    labels = getattr(config, "num_labels", needed)
    if labels != needed:
        raise ValueError(f"{what}: has a head of {labels} labels, {needed} are needed; train or build it with {needed}")


def plain_config(network: nn.Module) -> dict[str, Any] | None:
    """A network's configuration as plain data, or None for a module without one."""
    config = getattr(network, "config", None)
    return config.to_dict() if isinstance(config, PretrainedConfig) else None


def id_labels(network_or_config: Any) -> dict[int, str] | None:
    """The ``id2label`` of a network or configuration, or None where it has none."""
    config = getattr(network_or_config, "config", network_or_config)
    return getattr(config, "id2label", None)


def input_names(network: nn.Module, batch: Batch) -> list[str]:
    """Which entries of a batch a network takes, in its own order; labels are never among them.

    With labels a transformers network would compute a cross-entropy of its own.

    Args:
        network: A transformers network, or a module whose ``forward`` names what it takes or which has a list of
            ``input_names``.
        batch: The batch.
    """
    # a compiled network hides its arguments behind *args, **kwargs
    original = getattr(network, "_orig_mod", network)
    names = getattr(original, "input_names", None) or list(inspect.signature(original.forward).parameters)
    # RoBERTa's forward takes token types, and has an embedding for type 0 only
    left_out = LABELS if getattr(getattr(network, "config", None), "type_vocab_size", 2) >= 2 else LABELS | TOKEN_TYPES
    return [name for name in names if name in batch and name not in left_out]


def forward(network: nn.Module, batch: Batch, **options: Any) -> Any:
    """Call a network with its ``input_names`` out of a batch.

    Args:
        network: A transformers network, or a module that takes entries of the batch by name.
        batch: The batch.
        options: Further arguments, such as ``output_hidden_states``.
    """
    return network(**{name: batch[name] for name in input_names(network, batch)}, **options)


def encoder_layers(network: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Find the stack of encoder layers.

    Returns:
        The name of the ``nn.ModuleList`` that is as long as the configuration's ``num_hidden_layers``, and the
        list; None where there is none, as in ALBERT, whose layers share their weights.
    """
    length = getattr(getattr(network, "config", None), "num_hidden_layers", None)
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return name, module
    return None


def shape_of(network: nn.Module) -> Shape | None:
    """The sizes of a network, or None where its configuration does not say them."""
    config = getattr(network, "config", None)
    fields = [getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    return None if None in fields else Shape(*map(int, fields))  # type: ignore[arg-type]


def most_positions(config: Any) -> int | None:
    """How many tokens a network can read at once, or None where its configuration does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    # the first positions of these families are taken by padding
    taken = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    return int(positions) - taken


def parameter_count(network: nn.Module) -> int:
    """Number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def parameters_of(config: PretrainedConfig, auto_class: str) -> int:
    """``parameter_count`` of the network that a configuration describes, without its weights."""
    with torch.device("meta"):
        return parameter_count(getattr(transformers, auto_class).from_config(config))
