"""Read single-file and sharded checkpoints, and convert the latter to the former."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lightning_kd.io.atomic import atomic_write
from lightning_kd.io.checkpoint_io import checked_checkpoint

METADATA_FILENAME = "meta.pt"
"""File of a sharded checkpoint with everything but tensors: loops, hyperparameters, scores."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Return True if a path is the folder of a sharded checkpoint."""
    return (path / METADATA_FILENAME).is_file()


def read_metadata(path: Path) -> dict[str, Any]:
    """Return a sharded checkpoint without its tensors, or a single-file one with memory-mapped tensors."""
    file = path / METADATA_FILENAME if is_sharded_checkpoint(path) else path
    with checked_checkpoint(file):
        metadata: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return metadata


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint in the layout of a single file, in one process."""
    checkpoint = read_metadata(path)
    if not is_sharded_checkpoint(path):
        return checkpoint
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # slow to import

    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / "weights.pt"
        dcp_to_torch_save(path, file)
        checkpoint |= torch.load(file, map_location="cpu", weights_only=True)
    optimizers = sorted((name for name in checkpoint if name.startswith("optimizer_")), key=len)
    checkpoint["optimizer_states"] = [checkpoint.pop(name) for name in optimizers]
    return checkpoint


def consolidate(source: Path, target: Path) -> None:
    """Convert a sharded checkpoint to a single file, from which any strategy can resume.

    Lightning's ``consolidate_checkpoint`` (2.6) expects the keys of ``FSDPStrategy``.

    Args:
        source: Folder of the sharded checkpoint.
        target: File to write.

    Raises:
        ValueError: If the source is not a sharded checkpoint, or the target already exists.
    """
    if not is_sharded_checkpoint(source):
        raise ValueError(f"checkpoint: {str(source)!r} is not a sharded checkpoint, a folder with {METADATA_FILENAME}")
    if target.exists():
        raise ValueError(f"output: {str(target)!r} exists; choose another name")
    with atomic_write(target) as file:
        torch.save(read_checkpoint(source), file)
