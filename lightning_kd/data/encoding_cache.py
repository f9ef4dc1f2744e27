"""Cache of encoded splits, and its keys."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.readers import Columns
from lightning_kd.io.atomic import check_writable, disk_full_errors


def get_fingerprint(dataset: datasets.Dataset) -> str:
    """Return the fingerprint of a dataset, which ``datasets`` (5.2) offers as a private attribute only."""
    return str(dataset._fingerprint)


def set_fingerprint(dataset: datasets.Dataset, fingerprint: str) -> None:
    """Set the fingerprint of a dataset."""
    dataset._fingerprint = fingerprint


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """Return everything that determines the token ids of a text, as JSON values."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for setting in ("truncation", "padding"):  # left over from the latest call
        state.pop(setting, None)
    # not part of the backend's state
    sides = [tokenizer.truncation_side, tokenizer.padding_side, tokenizer.model_input_names]
    return [tokenizer.model_max_length, sides, state]


def encoder_state(cls: type[Any], root: type[Any]) -> list[Any]:
    """Return everything that determines how a DataModule encodes, as JSON values.

    Args:
        cls: Class of the DataModule.
        root: Base class at which to stop.

    Returns:
        Name and ``ENCODING_VERSION`` of each class, and the source of those outside of this library, whose sources
        may change without an effect on the encoding.
    """
    classes: list[Any] = [base for base in cls.__mro__ if issubclass(base, root)]
    return [
        [base.__name__, base.ENCODING_VERSION, None if base.__module__.startswith("lightning_kd.") else _source(base)]
        for base in classes
    ]


def _source(cls: type[Any]) -> str:
    """Return the source file of a class, or the bytecode of its ``encode`` if it has none (in a notebook)."""
    try:
        return inspect.getsource(inspect.getmodule(cls))  # type: ignore[arg-type]
    except (OSError, TypeError):
        code = cls.encode.__code__
        return repr((code.co_code, code.co_names, [c for c in code.co_consts if isinstance(c, str | int)]))


def _cache_file(key: str) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "lightning_kd" / f"{key}.arrow"


def load_encoded(key: str) -> datasets.Dataset | None:
    """Return a dataset from the cache of ``encode_dataset``; None if it is not there."""
    file = _cache_file(key)
    return datasets.Dataset.from_file(str(file)) if file.exists() else None


def encode_dataset(
    raw: datasets.Dataset, encode: Callable[[Columns], Columns], key: str, description: str
) -> datasets.Dataset:
    """Encode a dataset, or load the result from the cache of ``datasets``.

    Args:
        raw: Examples.
        encode: Encodes a batch of examples.
        key: Changes whenever the result does.
        description: Label of the progress bar.

    Raises:
        OSError: If the cache cannot be written.
    """
    file = _cache_file(key)
    if not file.exists():  # a filled cache may be read-only
        check_writable(file.parent, "HF_DATASETS_CACHE")
        file.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(file):
        return raw.map(
            encode,
            batched=True,
            remove_columns=raw.column_names,
            cache_file_name=str(file),
            new_fingerprint=key,
            desc=description,
        )
