"""Run folders: one for each run, reused to resume it."""

import re
import shutil
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
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = root / f"version_{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def remove_if_empty(folder: Path) -> None:
    """Remove a run folder without checkpoint, student and predictions."""
    if not re.fullmatch(r"version_\d+", folder.name):
        return
    if not any(
        file.is_file() for pattern in ("checkpoints/*", "student/*", "predictions.*") for file in folder.glob(pattern)
    ):
        shutil.rmtree(folder, ignore_errors=True)


def create_run_logger(folder: Path) -> TensorBoardLogger:
    """Return a TensorBoard logger that writes into a run folder."""
    return TensorBoardLogger(str(folder), name="", version="")
