"""Write files and directories atomically, and report full or read-only disks."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and an exceeded quota."""


@contextmanager
def disk_full_errors(target: Path) -> Iterator[None]:
    """Re-raise any disk-full error as an ``OSError`` that names the target.

    Raises:
        OSError: In place of PyTorch's ``RuntimeError``, an error of safetensors, or an ``OSError`` without a filename.
    """
    try:
        yield
    except Exception as error:
        text = f"{error} {error.__context__}"  # the context holds the cause of PyTorch's error
        code = next((code for code in DISK_FULL_ERRNOS if os.strerror(code) in text), None)
        expected = (None, *map(os.strerror, DISK_FULL_ERRNOS))
        other_os_error = isinstance(error, OSError) and error.strerror not in expected
        if code is None or other_os_error or getattr(error, "filename", None) is not None:
            raise
        raise OSError(code, os.strerror(code), str(target)) from error


def check_writable(target: Path, field: str) -> None:
    """Check that a path can be written, before there are results to lose.

    Args:
        target: File or directory that will be written.
        field: Name of the argument, for the error message.

    Raises:
        ValueError: If its closest existing parent is read-only or not a directory.
    """
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        reason = "is read-only" if parent.is_dir() else "is not a directory"
        raise ValueError(f"{field}: cannot write {str(target)!r}, {str(parent)!r} {reason}; choose another path")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file; on success it replaces the file, on error it is deleted.

    Args:
        target: File to write or replace; missing parent directories are created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary_path(target, target.suffix)
    try:
        with disk_full_errors(target):
            yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a new temporary directory beside a directory; on success it replaces it, on error it is deleted.

    If the process is killed, the target is complete, old or new; see ``replace_path`` for the moment in between.

    Args:
        target: Directory to write or replace; missing parent directories are created.
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
    """Replace a file or directory with another file or directory.

    Replacing a file with a file is atomic. Otherwise the target is absent between two renames; in between, the old one
    is beside it as ``.<name>.<process id>.old``.
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
    _remove(old)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _temporary_path(target: Path, suffix: str = "") -> Path:
    """Return a temporary path for this process beside the target, and delete those of processes that have ended."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp{suffix}"):
        if not pid_alive(leftover.name.removeprefix(f".{target.name}.").partition(".")[0]):
            _remove(leftover)
    return target.with_name(f".{target.name}.{os.getpid()}.tmp{suffix}")


def pid_alive(pid: str) -> bool:
    """Return True if another process with this id runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # another user's process
        return True
    return int(pid) != os.getpid()
