"""Run folders: a new one for each run, and the old one to resume."""

import re
import shutil
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_kd.io.atomic import check_writable

LOGS_DIR = "lightning_logs"


def create_run_dir(parent: Path) -> Path:
    """Create ``lightning_logs/version_N`` with the first free N.

    ``mkdir`` is atomic, so two runs that start together get two folders. Only for the first process of a run.
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
    """Remove the folder of a run that stopped before it had anything to keep: no checkpoint, student or predictions."""
    if not re.fullmatch(r"version_\d+", folder.name):
        return
    if not any(
        file.is_file() for pattern in ("checkpoints/*", "student/*", "predictions.*") for file in folder.glob(pattern)
    ):
        shutil.rmtree(folder, ignore_errors=True)


def create_run_logger(folder: Path) -> TensorBoardLogger:
    """TensorBoard in a run folder."""
    return TensorBoardLogger(str(folder), name="", version="")


def last_checkpoint_path(run_dir: Path) -> Path:
    """Where a run keeps what it continues from: a file, or a folder to which each process wrote its part."""
    return run_dir / "checkpoints" / "last.ckpt"


def resume_arguments(run_dir: Path) -> list[str]:
    """The command line that continues a run.

    Raises:
        ValueError: If the folder is no run folder or has no ``last.ckpt``.
    """
    config, checkpoint = run_dir / "config.yaml", last_checkpoint_path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"--resume: there is no folder {str(run_dir)!r}")
    if not config.is_file():
        raise ValueError(f"--resume: {str(run_dir)!r} is no run folder, it has no config.yaml")
    if not checkpoint.exists():
        raise ValueError(
            f"--resume: {str(run_dir)!r} has no checkpoints/last.ckpt (it is first written after a few minutes or an "
            f"epoch); start again with --config {str(config)!r}"
        )
    return ["--config", str(config), "--ckpt_path", str(checkpoint)]
