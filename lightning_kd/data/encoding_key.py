"""What the token ids of a text depend on."""

import hashlib
import inspect
import json
from functools import cache
from importlib.resources import files
from typing import Any

from transformers import PreTrainedTokenizerBase


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What decides which ids a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for setting in ("truncation", "padding"):  # settings of the last call, not of the tokenizer
        state.pop(setting, None)
    # the sides that are cut and padded, and the inputs that a family takes: not in the state of the backend
    sides = [tokenizer.truncation_side, tokenizer.padding_side, tokenizer.model_input_names]
    return [tokenizer.model_max_length, sides, state]


@cache
def _own_code() -> str:
    """Changes with any file of this package: who encodes calls helpers."""
    state = hashlib.sha256()
    for file in sorted(files("lightning_kd.data").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            state.update(file.read_bytes())
    return state.hexdigest()


def sources_of(kind: type[Any], root: type[Any]) -> list[str]:
    """What decides how a DataModule encodes, for a cache key: its file and those of its bases, in a notebook code."""
    sources = [_own_code()]
    for base in kind.__mro__:
        if issubclass(base, root) and not base.__module__.startswith("lightning_kd.data."):
            try:
                sources.append(inspect.getsource(inspect.getmodule(base)))  # type: ignore[arg-type]
            except (OSError, TypeError):
                code = base.encode.__code__  # type: ignore[attr-defined]
                sources.append(
                    repr((code.co_code, code.co_names, [c for c in code.co_consts if isinstance(c, str | int)]))
                )
    return sources
