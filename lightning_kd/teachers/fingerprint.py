"""Fingerprints that identify models in the teacher cache."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_kd import models
from lightning_kd.models.loading import NO_OPTIONS

READ_CHUNK_BYTES = 2**24
"""Number of bytes read at a time."""

MODEL_FILE_PATTERNS = ("*.safetensors", "*.bin", "*.index.json", "*config.json", "*.py")
"""Files of a folder that determine the outputs of its model: weights, configurations (also of adapters) and code."""


def fingerprint(source: str | nn.Module, options: Mapping[str, Any] = NO_OPTIONS) -> str:
    """Hash the weights and the configuration of a model, without loading it where possible.

    Args:
        source: A folder, whose files are hashed; a Hub id, identified by its commit; or a module, of which the
            weights, the configuration and the ``repr`` are hashed, but not the code of ``forward``.
        options: Arguments of ``from_pretrained``.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: If there is no such model.
    """
    others = {name: value for name, value in options.items() if name != "revision"}  # the commit stands for it
    prefix = json.dumps(others, sort_keys=True).encode() if others else b""
    digest = hashlib.sha256(prefix)
    if isinstance(source, nn.Module):
        _update_with_module(digest, source)
        return digest.hexdigest()
    models.load_config(source, "teacher", options)  # raises if it cannot be loaded
    if (commit := models.find_commit(source, "teacher", options)) is not None:
        digest.update(f"{source} {commit}".encode())
        return digest.hexdigest()
    folder = Path(source, options.get("subfolder", ""))
    files = sorted({file for pattern in MODEL_FILE_PATTERNS for file in folder.glob(pattern)})
    return _hash_files(prefix, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=16)  # of the same files for the trials of a study, or for a run and its cache
def _hash_files(prefix: bytes, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256(prefix)
    for file, _, _ in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while part := stream.read(READ_CHUNK_BYTES):
                digest.update(part)
    return digest.hexdigest()


def _update_with_module(digest: Any, module: nn.Module) -> None:
    architecture = repr(module).replace("FSDP", "")  # FSDP2 prefixes class names
    digest.update(f"{architecture} {json.dumps(models.config_to_dict(module), default=str)}".encode())
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, Tensor):  # extra state of a module
            digest.update(f"{name} {value!r}".encode())
            continue
        tensor = value.full_tensor() if isinstance(value, DTensor) else value  # sharded by an earlier fit
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
