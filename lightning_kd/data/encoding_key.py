"""What the token ids of a text depend on."""

import inspect
import json
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


def encoder_key(kind: type[Any], root: type[Any]) -> list[Any]:
    """What decides how a DataModule encodes, of each class from its own up to ``root``.

    Returns:
        Their names and versions, and the source of those that are not ours.
    """
    bases: list[Any] = [base for base in kind.__mro__ if issubclass(base, root)]
    return [
        [base.__name__, base.ENCODING_VERSION, None if base.__module__.startswith("lightning_kd.") else _source(base)]
        for base in bases
    ]


def _source(cls: type[Any]) -> str:
    """The file of a class, or in a notebook what its ``encode`` was compiled to."""
    try:
        return inspect.getsource(inspect.getmodule(cls))  # type: ignore[arg-type]
    except (OSError, TypeError):
        code = cls.encode.__code__
        return repr((code.co_code, code.co_names, [c for c in code.co_consts if isinstance(c, str | int)]))
