"""Write checkpoints atomically, and check them before they are loaded."""

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.utilities.cloud_io import _load  # private (2.6), but what load_from_checkpoint reads URLs with
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_kd.io.atomic import atomic_write


@contextmanager
def checked_checkpoint(path: Any) -> Iterator[None]:
    """Verify the checksums of a checkpoint, and report errors of loading it within the context in one line.

    PyTorch ignores the checksums that it saves, and would load a file with zeros in its middle.

    Args:
        path: The checkpoint; the checksums of a folder, URL or stream are not verified.

    Raises:
        ValueError: If it is damaged, or holds objects other than tensors and plain data.
    """
    file = Path(path if isinstance(path, str | os.PathLike) else "")
    remedy = "use another (--ckpt_path), such as best.ckpt or last.ckpt beside it, or start a new run"
    try:
        if file.is_file():
            with ZipFile(file) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise BadZipFile(f"wrong checksum of {damaged}")
        yield
    except BadZipFile as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged ({error}); {remedy}") from error
    except pickle.UnpicklingError as error:
        unsafe_globals = torch.serialization.get_unsafe_globals_in_checkpoint
        objects = unsafe_globals(file) if file.is_file() else re.findall(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"checkpoint {str(path)!r} holds objects other than tensors and plain data ({', '.join(objects) or '?'}), "
            f"which could execute code when loaded; {remedy}"
        ) from error


def read_hyperparameters(path: Any) -> dict[str, Any]:
    """Return the hyperparameters in a checkpoint without its tensors; the path may be a URL, or a stream."""
    checkpoint = _load(path, map_location="meta", weights_only=True)
    if hasattr(path, "seek"):
        path.seek(0)
    hyperparameters: dict[str, Any] = checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY) or {}
    return hyperparameters


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file and renames it, so that a kill or a full disk never leaves an incomplete checkpoint.

    Lightning (2.6) writes to the system's temporary directory and moves the file, which is a copy across disks.
    Loads only tensors and plain data.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: If it cannot be written, for instance on a full disk; an existing file is kept.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as partial, partial.open("wb") as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint, always with ``weights_only=True``.

        Raises:
            ValueError: If it is damaged, or holds objects other than tensors and plain data.
        """
        with checked_checkpoint(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
