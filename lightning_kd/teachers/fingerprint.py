"""What tells two networks apart."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_kd import models

READ_CHUNK_BYTES = 2**24
"""Bytes read at a time."""

MODEL_FILE_PATTERNS = ("*.safetensors", "*.bin", "*.index.json", "*config.json", "*.py")
"""What decides what a network in a folder computes: its weights, of adapters too its configuration, its own code."""


def fingerprint(source: str | nn.Module, options: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Hash of the weights and the configuration of a network, without loading it where that can be avoided.

    Args:
        source: A folder, whose files are hashed; a hub id, known by its commit; or a module. What the ``forward`` of a
            module computes is not looked at, only how it prints.
        options: Arguments of ``from_pretrained`` it is loaded with.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: If there is no such network.
    """
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode() if options else b"")
    if isinstance(source, nn.Module):
        architecture = repr(source).replace("FSDP", "")  # which dividing it puts before the names of classes
        digest.update(f"{architecture} {json.dumps(models.config_to_dict(source), default=str)}".encode())
        for name, value in sorted(source.state_dict().items()):
            if not isinstance(value, Tensor):  # a module's extra state
                digest.update(f"{name} {value!r}".encode())
                continue
            if isinstance(value, DTensor):  # divided among devices by an earlier fit
                value = value.full_tensor()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
    models.load_config(source, "teacher", options)  # says what is wrong with it
    folder = Path(source)
    if not folder.is_dir():
        hub_kwargs = {name: options[name] for name in ("revision", "subfolder", "cache_dir") if name in options}
        parts = Path(hf_hub_download(source, "config.json", **hub_kwargs)).parts
        commit = parts[len(parts) - parts[::-1].index("snapshots")]  # the hub's cache has a folder for each
        digest.update(f"{source} {commit}".encode())
        return digest.hexdigest()
    folder /= options.get("subfolder", "")
    for file in sorted({file for pattern in MODEL_FILE_PATTERNS for file in folder.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while part := stream.read(READ_CHUNK_BYTES):
                digest.update(part)
    return digest.hexdigest()
