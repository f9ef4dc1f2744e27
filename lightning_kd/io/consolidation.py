"""Read single-file and sharded checkpoints, and convert the latter to the former."""

import io
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lightning_kd.io.atomic import atomic_write
from lightning_kd.io.checkpoint_io import checked_checkpoint

METADATA_FILENAME = "meta.pt"
"""File of a sharded checkpoint with everything but tensors: loops, hyperparameters, scores."""


TENSOR_INDEX_FILENAME = ".metadata"
"""File of a sharded checkpoint that says where each tensor lies; a pickle, which PyTorch (2.13) loads unchecked."""

_INDEX_CLASSES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # Python 3.13
}
"""What PyTorch pickles into ``.metadata``, by module."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Return True if a path is the folder of a sharded checkpoint."""
    return (path / METADATA_FILENAME).is_file()


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _INDEX_CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def check_sharded_checkpoint(path: Path) -> None:
    """Check that loading a sharded checkpoint with PyTorch executes no code.

    PyTorch (2.13) unpickles ``.metadata`` and all values that are not tensors without restrictions.

    Args:
        path: Folder of the checkpoint.

    Raises:
        ValueError: If it holds objects other than tensors and plain data, or is damaged.
    """
    with checked_checkpoint(path):
        with (path / TENSOR_INDEX_FILENAME).open("rb") as file:
            index = _IndexUnpickler(file).load()
        for key, place in index.storage_data.items():
            if type(index.state_dict_metadata[key.fqn]).__name__ == "BytesStorageMetadata":
                with (path / place.relative_path).open("rb") as file:
                    file.seek(place.offset)
                    value = io.BytesIO(file.read(place.length))
                torch.load(value, weights_only=True)


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

    check_sharded_checkpoint(path)
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
