"""Checkpoints in either form: a file, or the folder of a strategy that lets each process write its part."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lightning_kd.io.atomic import atomic_write
from lightning_kd.io.checkpoint_io import checked_checkpoint

METADATA_FILENAME = "meta.pt"
"""What of a folder is no tensor: loops, hyperparameters, scores."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a path is the folder of a distributed checkpoint."""
    return (path / METADATA_FILENAME).is_file()


def read_metadata(path: Path) -> dict[str, Any]:
    """A checkpoint without weights, or with weights that are read when they are used."""
    file = path / METADATA_FILENAME if is_sharded_checkpoint(path) else path
    with checked_checkpoint(file):
        metadata: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return metadata


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint as Lightning keeps it in a file; needs no other process."""
    checkpoint = read_metadata(path)
    if not is_sharded_checkpoint(path):
        return checkpoint
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # takes long to import

    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / "weights.pt"
        dcp_to_torch_save(path, file)
        checkpoint |= torch.load(file, map_location="cpu", weights_only=True)
    optimizers = sorted((name for name in checkpoint if name.startswith("optimizer_")), key=len)
    checkpoint["optimizer_states"] = [checkpoint.pop(name) for name in optimizers]
    return checkpoint


def consolidate(source: Path, target: Path) -> None:
    """Make a file of a distributed checkpoint, from which one process or any strategy continues.

    Lightning's own ``consolidate_checkpoint`` expects the keys of another strategy.

    Raises:
        ValueError: If the source is no distributed checkpoint, or the target exists.
    """
    if not is_sharded_checkpoint(source):
        raise ValueError(
            f"checkpoint: {str(source)!r} is no folder of a distributed checkpoint (with {METADATA_FILENAME} in it)"
        )
    if target.exists():
        raise ValueError(f"output: {str(target)!r} exists; choose another name")
    with atomic_write(target) as file:
        torch.save(read_checkpoint(source), file)
