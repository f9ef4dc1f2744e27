"""Run folders: one for each run, reused to resume it."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_kd.io.atomic import check_writable

LOGS_DIR = "lightning_logs"


def create_run_dir(parent: Path) -> Path:
    """Create ``lightning_logs/version_N`` with the first free N.

    ``mkdir`` is atomic, so two runs that start together get two folders. Call it in the first process of a run only.
    """
    root = parent / LOGS_DIR
    check_writable(root / "version_0", "trainer.default_root_dir")
    number = 0
    while True:
        folder = root / f"version_{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def remove_if_empty(folder: Path, parents: Sequence[Path] = ()) -> None:
    """Remove a run folder without checkpoint, student and predictions.

    Args:
        folder: The run folder.
        parents: Parents to remove, too, if they are empty, the innermost first.
    """
    if not re.fullmatch(r"version_\d+", folder.name):
        return
    # a sharded checkpoint is a folder
    patterns = ("checkpoints/**/*", "student/**/*", "predictions.*")
    if any(file.is_file() for pattern in patterns for file in folder.glob(pattern)):
        return
    shutil.rmtree(folder, ignore_errors=True)
    for parent in parents:
        with suppress(OSError):  # not empty
            parent.rmdir()


def create_run_logger(folder: Path) -> TensorBoardLogger:
    """Return a TensorBoard logger that writes into a run folder."""
    return TensorBoardLogger(str(folder), name="", version="")
