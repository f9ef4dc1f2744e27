"""Folders that are complete or absent."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside the target that takes its place at the end, or vanishes if something is raised.

    Whenever the process is killed, the target is whole, old or new; only between two renames is it absent, and the
    old one then lies beside it under the name ``.<name>.<process>.old``.

    Args:
        target: Folder to write or to replace; folders above it are made.
    """
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        if not _alive(leftover.name.split(".")[-2]):
            shutil.rmtree(leftover, ignore_errors=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        replace_either(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_either(fresh: Path, target: Path) -> None:
    """Put a file or folder in the place of a file or folder.

    Between two files at once; else the target is absent between two renames, and the old one then lies beside it under
    the name ``.<name>.<process>.old``.
    """
    if not target.is_dir() and not (target.exists() and fresh.is_dir()):
        fresh.replace(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()


def _alive(process: str) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # somebody else's
        return True
    return int(process) != os.getpid()


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """A path beside the target to write to, which takes its place at the end, or vanishes if something is raised.

    Args:
        target: File to write or to replace; folders above it are made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
