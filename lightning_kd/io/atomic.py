"""Folders that are complete or absent, and what stops one from being written."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk or a quota is full."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Make one error of a full disk, whatever a library makes of it, and let it name what was being written.

    Raises:
        OSError: In place of PyTorch's RuntimeError, safetensors' own error, and one of the system's without a name.
    """
    try:
        yield
    except Exception as error:
        words = f"{error} {error.__context__}"  # PyTorch hides the reason there
        number = next((number for number in FULL if os.strerror(number) in words), None)
        ours = isinstance(error, OSError) and error.strerror not in (None, *map(os.strerror, FULL))
        if number is None or ours or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(target)) from error


def check_writable(target: Path, field: str) -> None:
    """Refuse a path at which nothing can be written, before there is anything to lose.

    Args:
        target: File or folder that is going to be written.
        field: What the path is called in the message.

    Raises:
        ValueError: If the folder that it would lie in is read-only, or is no folder.
    """
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = "is read-only" if parent.is_dir() else "is no folder"
        raise ValueError(f"{field}: {str(target)!r} cannot be written, {str(parent)!r} {why}; choose another place")


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside the target that takes its place at the end, or vanishes if something is raised.

    Whenever the process is killed, the target is whole, old or new; only between two renames is it absent, and the
    old one then lies beside it under the name ``.<name>.<process>.old``.

    Args:
        target: Folder to write or to replace; folders above it are made.
    """
    fresh = _beside(target)
    fresh.mkdir(parents=True)
    try:
        with writing(target):
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


def _beside(target: Path, suffix: str = "") -> Path:
    """A name of this process's own beside the target; what killed processes left under theirs is removed."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp{suffix}"):
        if not alive(leftover.name.removeprefix(f".{target.name}.").partition(".")[0]):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return target.with_name(f".{target.name}.{os.getpid()}.tmp{suffix}")


def alive(process: str) -> bool:
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
    partial = _beside(target, target.suffix)
    try:
        with writing(target):
            yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
