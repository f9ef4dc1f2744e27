"""A crash-safe store of one block of bytes per example, in a folder shared by any number of processes."""

import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

ENTRY_DTYPE = np.dtype(
    [("row", "<i8"), ("offset", "<i8")]
    + [(name, "<u4") for name in ("num_distributions", "num_classes", "size", "tag", "block_checksum", "checksum")]
)
"""An entry of the index; ``checksum`` is the CRC-32 of the other fields."""

LOCK_NOTICE_SECONDS = 10.0
"""Time to wait for a lock before saying so."""

RowIds = NDArray[np.int64]


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create a folder and hold its lock for writing.

    Raises:
        OSError: If the folder cannot be written to; names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=LOCK_NOTICE_SECONDS)
        except Timeout:
            holder = f"another process{_lock_holder(folder / 'lock')}"
            print(f"teacher_cache: waiting for {str(folder / 'lock')!r}, which {holder} holds", file=sys.stderr)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise OSError(
            error.errno, f"teacher_cache: cannot write to {str(folder)!r} ({error.strerror}); use another folder"
        ) from error


def _lock_holder(file: Path) -> str:
    """Return the process id of the holder of a lock in parentheses; empty if the system does not tell it."""
    with suppress(OSError, ValueError):
        inode = file.stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            _, kind, _, _, pid, place, *_ = line.split()
            if kind == "FLOCK" and place.endswith(f":{inode}") and int(pid) > 0:  # 0 = in another container
                return f" (pid {pid})"
    return ""


def _entry_checksums(entries: NDArray[np.void]) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(entry.tobytes()[:-4]) for entry in entries], np.uint32)


def _valid_entries(data: bytes) -> NDArray[np.void]:
    """Parse entries up to the first invalid one: being written, torn by a crash, or zeros after a power failure."""
    entries = np.frombuffer(data, ENTRY_DTYPE, count=len(data) // ENTRY_DTYPE.itemsize)
    invalid = np.flatnonzero(entries["checksum"] != _entry_checksums(entries))
    return entries[: invalid[0]] if len(invalid) else entries


class RowStore:
    """An append-only file of blocks and an append-only index of it.

    A row is added to the index after its block is written, so it is stored completely or not at all, even if the
    process is killed. A block is verified when its row is first read, because after a power failure an entry may be on
    disk without its block. If several processes write the same row, the first one wins. A read-only folder can be read.

    Args:
        folder: Holds ``index.bin`` and ``values.bin``; created by the first ``write``.
        expected_sizes: Expected relative size of each row's block, (rows,). The first ``write`` reserves disk space
            for all rows accordingly.

    Raises:
        ValueError: If ``values.bin`` is too short for the index, the index has rows out of range, or, later, the
            folder was replaced or ``values.bin`` truncated.
    """

    def __init__(self, folder: Path, expected_sizes: NDArray[np.float64]) -> None:
        self.folder = folder
        self._expected_sizes = expected_sizes
        self._index, self._values = folder / "index.bin", folder / "values.bin"
        self._entries = np.zeros(len(expected_sizes), ENTRY_DTYPE)
        self._entries["offset"] = -1
        self._verified = np.zeros(len(expected_sizes), dtype=bool)
        self._index_end = 0
        self._values_end = 0
        self._buffer = memoryview(b"")
        self._mapped_file: os.stat_result | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type["RowStore"], tuple[Path, NDArray[np.float64]]]:
        return RowStore, (self.folder, self._expected_sizes)  # another process maps the file itself

    def __len__(self) -> int:
        """Number of stored rows."""
        return int((self._entries["offset"] >= 0).sum())

    def refresh(self) -> None:
        """Read the entries that any process has added since the last call."""
        if self._mapped_file is not None and not (
            self._values.exists() and os.path.samestat(self._mapped_file, self._values.stat())
        ):
            raise ValueError(f"teacher_cache: {str(self.folder)!r} was deleted or replaced during the run; start again")
        try:
            with self._index.open("rb") as stream:
                stream.seek(self._index_end)
                entries = _valid_entries(stream.read())
        except FileNotFoundError:
            return
        if not len(entries):
            return
        if entries["row"].max() >= len(self._entries):
            raise self._damage_error("its index has more rows than the data")
        values_end = int((entries["offset"] + entries["size"]).max())
        if values_end > len(self._buffer):
            size = self._values.stat().st_size if self._values.exists() else 0
            if size < values_end:
                raise self._damage_error(f"values.bin has {size:,} of {values_end:,} bytes")
            self._buffer = memoryview(np.memmap(self._values, np.uint8, "r"))
            self._mapped_file = self._values.stat()
        self._entries[entries["row"]] = entries
        self._verified[entries["row"]] = False
        self._index_end += entries.nbytes
        self._values_end = max(self._values_end, values_end)

    def _check_not_truncated(self) -> None:
        """Raise if ``values.bin`` became shorter, because reading a mapped page behind its end is a SIGBUS."""
        with suppress(FileNotFoundError):  # deleted, which keeps the mapped pages
            values = self._values.stat()
            is_mapped = self._mapped_file is not None and os.path.samestat(self._mapped_file, values)
            if is_mapped and values.st_size < len(self._buffer):
                raise self._damage_error(f"values.bin has {values.st_size:,} of {len(self._buffer):,} bytes")

    def _damage_error(self, detail: str) -> ValueError:
        return ValueError(f"teacher_cache: {str(self.folder)!r} is damaged ({detail}); delete it to fill it again")

    def contains(self, rows: RowIds) -> NDArray[np.bool_]:
        """Return True for each row that can be read, (N,); verifies the checksum of a row the first time."""
        self._check_not_truncated()
        for row in rows[~self._verified[rows]].tolist():
            entry = self._entries[row]
            if entry["offset"] < 0:
                continue
            if zlib.crc32(self._block(entry)) == entry["block_checksum"]:
                self._verified[row] = True
            else:
                entry["offset"] = -1
        return np.asarray(self._verified[rows])

    def _block(self, entry: np.void) -> memoryview:
        offset = int(entry["offset"])
        return self._buffer[offset : offset + int(entry["size"])]

    def tags(self, rows: RowIds) -> NDArray[np.uint32]:
        """Return the tags of stored rows, (N,)."""
        return np.asarray(self._entries["tag"][rows])

    def read(self, rows: RowIds) -> list[tuple[NDArray[np.uint8], int, int]]:
        """Read the blocks of stored rows, grouped into runs of blocks of the same shape.

        Returns:
            For each run, its blocks (n, size), contiguous, and their ``num_distributions`` and ``num_classes``.
        """
        self._check_not_truncated()
        entries = self._entries[rows]
        shapes = entries[["num_distributions", "num_classes"]]
        starts = [0, *(np.flatnonzero(shapes[1:] != shapes[:-1]) + 1).tolist(), len(rows)]
        runs = []
        for start, stop in pairwise(starts):
            run = entries[start:stop]
            # many times faster than fancy indexing
            joined = b"".join([self._block(entry) for entry in run])
            blocks = np.frombuffer(joined, np.uint8).reshape(len(run), -1)
            runs.append((blocks, int(run["num_distributions"][0]), int(run["num_classes"][0])))
        return runs

    def write(
        self,
        rows: RowIds,
        blocks: Sequence[bytes],
        num_distributions: Sequence[int],
        num_classes: Sequence[int],
        tags: NDArray[np.uint32],
    ) -> None:
        """Append rows, except those that are already stored.

        Args:
            rows: Row ids, (N,).
            blocks: N blocks.
            num_distributions: Stored with each block, N numbers.
            num_classes: Stored with each block, N numbers.
            tags: Stored with each block, (N,), such as a checksum of the data it was computed from.

        Raises:
            OSError: If the disk is full, or the folder cannot be written to.
        """
        with folder_lock(self.folder):
            self.refresh()
            _, first = np.unique(rows, return_index=True)
            new = first[~self.contains(rows[first])]
            if not len(new):
                return
            parts = [blocks[index] for index in new]
            entries = np.zeros(len(new), ENTRY_DTYPE)
            entries["row"] = rows[new]
            entries["size"] = [len(part) for part in parts]
            entries["offset"] = self._values_end + np.cumsum(entries["size"]) - entries["size"]
            entries["num_distributions"] = np.asarray(num_distributions)[new]
            entries["num_classes"] = np.asarray(num_classes)[new]
            entries["tag"] = tags[new]
            entries["block_checksum"] = [zlib.crc32(part) for part in parts]
            entries["checksum"] = _entry_checksums(entries)
            joined = b"".join(parts)
            self._reserve(self._values_end + len(joined), len(joined) / self._expected_sizes[rows[new]].sum())
            with self._values.open("r+b") as stream:
                stream.seek(self._values_end)
                stream.write(joined)
            with self._index.open("ab") as stream:
                stream.truncate(self._index_end)  # drop the torn entries of a killed process
                stream.write(entries.tobytes())
            self.refresh()

    def _reserve(self, min_bytes: int, bytes_per_unit: float) -> None:
        """Allocate ``values.bin``, so that a full disk is an error now and not a SIGBUS in a mapped page later."""
        self._values.touch()
        size = self._values.stat().st_size
        if size >= min_bytes:
            return
        expected = round(bytes_per_unit * self._expected_sizes.sum()) if size == 0 else min_bytes + size // 8
        target = max(min_bytes, expected)
        try:
            with self._values.open("r+b") as stream:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(stream.fileno(), size, target - size)
                else:
                    stream.truncate(target)
        except OSError as error:
            if size == 0:
                self._values.unlink()
            raise OSError(error.errno, f"{target:,} bytes needed: {error.strerror}") from error
