"""Folders that are complete or absent, and what stops one from being written."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk or a quota is full."""


@contextmanager
def disk_full_errors(target: Path) -> Iterator[None]:
    """Make one error of a full disk, whatever a library makes of it, and let it name what was being written.

    Raises:
        OSError: In place of PyTorch's RuntimeError, safetensors' own error, and one of the system's without a name.
    """
    try:
        yield
    except Exception as error:
        text = f"{error} {error.__context__}"  # PyTorch hides the reason there
        code = next((code for code in DISK_FULL_ERRNOS if os.strerror(code) in text), None)
        other_os_error = isinstance(error, OSError) and error.strerror not in (
            None,
            *map(os.strerror, DISK_FULL_ERRNOS),
        )
        if code is None or other_os_error or getattr(error, "filename", None) is not None:
            raise
        raise OSError(code, os.strerror(code), str(target)) from error


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
def atomic_directory(target: Path) -> Iterator[Path]:
    """A fresh folder beside the target that takes its place at the end, or vanishes if something is raised.

    Whenever the process is killed, the target is whole, old or new; only between two renames is it absent, and the
    old one then lies beside it under the name ``.<name>.<process>.old``.

    Args:
        target: Folder to write or to replace; folders above it are made.
    """
    temporary = _temporary_path(target)
    temporary.mkdir(parents=True)
    try:
        with disk_full_errors(target):
            yield temporary
        replace_path(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_path(temporary: Path, target: Path) -> None:
    """Put a file or folder in the place of a file or folder.

    Between two files at once; else the target is absent between two renames, and the old one then lies beside it under
    the name ``.<name>.<process>.old``.
    """
    if not target.is_dir() and not (target.exists() and temporary.is_dir()):
        temporary.replace(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()


def _temporary_path(target: Path, suffix: str = "") -> Path:
    """A name of this process's own beside the target; what killed processes left under theirs is removed."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp{suffix}"):
        if not pid_alive(leftover.name.removeprefix(f".{target.name}.").partition(".")[0]):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return target.with_name(f".{target.name}.{os.getpid()}.tmp{suffix}")


def pid_alive(pid: str) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # somebody else's
        return True
    return int(pid) != os.getpid()


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path beside the target to write to, which takes its place at the end, or vanishes if something is raised.

    Args:
        target: File to write or to replace; folders above it are made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary_path(target, target.suffix)
    try:
        with disk_full_errors(target):
            yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
