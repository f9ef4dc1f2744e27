"""What tells two networks apart."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from lightning_kd import models

CHUNK = 2**24
"""Bytes read at a time."""

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")


def fingerprint(source: str | nn.Module) -> str:
    """Hash of the weights and the configuration of a network, without loading it where that can be avoided.

    Args:
        source: A folder, whose files are hashed; a hub id, known by its commit; or a module. What the ``forward`` of a
            module computes is not looked at.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: If there is no such network.
    """
    state = hashlib.sha256()
    if isinstance(source, nn.Module):
        state.update(f"{type(source).__qualname__} {json.dumps(models.plain_config(source), default=str)}".encode())
        for name, tensor in sorted(source.state_dict().items()):
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()
    config = models.load_config(source, "teacher")
    folder = Path(source)
    if not folder.is_dir():
        state.update(f"{source} {getattr(config, '_commit_hash', None)}".encode())
        return state.hexdigest()
    for file in sorted({folder / "config.json", *(file for kind in WEIGHTS for file in folder.glob(kind))}):
        state.update(file.name.encode())
        with file.open("rb") as stream:
            while part := stream.read(CHUNK):
                state.update(part)
    return state.hexdigest()
