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


def last_checkpoint_path(run_dir: Path) -> Path:
    """Return the path of the checkpoint that a run resumes from: a file, or the folder of a sharded checkpoint."""
    return run_dir / "checkpoints" / "last.ckpt"


def resume_arguments(run_dir: Path) -> list[str]:
    """Return the arguments of ``fit`` that resume a run.

    Raises:
        ValueError: If the folder is missing, is not a run folder, or has no ``last.ckpt``.
    """
    config, checkpoint = run_dir / "config.yaml", last_checkpoint_path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"--resume: {str(run_dir)!r} is not a folder")
    if not config.is_file():
        raise ValueError(f"--resume: {str(run_dir)!r} is not a run folder (no config.yaml)")
    if not checkpoint.exists():
        raise ValueError(
            f"--resume: {str(run_dir)!r} has no checkpoints/last.ckpt (first written after a few minutes or one "
            f"epoch); start a new run with --config {str(config)!r}"
        )
    return ["--config", str(config), "--ckpt_path", str(checkpoint)]
