"""Checkpoints that are whole on disk, and refused where they are not."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_kd.io.atomic import atomic_write


@contextmanager
def checked_checkpoint(path: Any) -> Iterator[None]:
    """Check a checkpoint before it is loaded, and say in one line why it cannot be.

    PyTorch does not look at the checksums that it saves, and would load a file with zeros in its middle.

    Args:
        path: Path of a checkpoint; an address or a stream is not checked before.

    Raises:
        ValueError: If it is damaged, or holds more than tensors and plain data.
    """
    file = Path(path if isinstance(path, str | os.PathLike) else "")
    remedy = "take another (--ckpt_path), such as best.ckpt or last.ckpt beside it, or start again"
    try:
        if file.is_file():
            with ZipFile(file) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise BadZipFile(f"the checksum of {damaged} differs")
        yield
    except BadZipFile as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged ({error}); {remedy}") from error
    except pickle.UnpicklingError as error:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(file) if file.is_file() else []
        raise ValueError(
            f"checkpoint {str(path)!r} holds more than tensors and plain data ({', '.join(objects) or 'unknown'}), "
            f"which could run a program when it is loaded; {remedy}"
        ) from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a checkpoint is whole whenever the run is killed or the disk full.

    Lightning makes it in memory, writes to the system's temporary folder, and moves that file, which is a copy where
    that folder is on another disk. Loads tensors and plain data only.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If the disk is full, for instance; what was at the path is still there.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as partial, partial.open("wb") as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint; nothing in it is executed.

        Raises:
            ValueError: If it is damaged, or holds more than tensors and plain data.
        """
        with checked_checkpoint(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
