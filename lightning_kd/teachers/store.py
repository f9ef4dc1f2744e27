"""Blocks of bytes, one for each row of a split, in a folder that any number of processes read and write."""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

HEADER = np.dtype([("entries", "<u4"), ("checksum", "<u4")])
ENTRY = np.dtype(
    [("row", "<i8"), ("offset", "<i8")] + [(name, "<u4") for name in ("count", "classes", "size", "checksum", "origin")]
)

Rows = NDArray[np.int64]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes from writing to it meanwhile.

    Raises:
        OSError: If something cannot be written; names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            yield
    except OSError as error:
        raise OSError(
            error.errno, f"teacher_cache: cannot write to {str(folder)!r} ({error.strerror}); name another folder"
        ) from error


def _identity(file: Path) -> tuple[int, int] | None:
    """What tells two files of the same name apart as long as both are in use; None if there is none."""
    try:
        state = file.stat()
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


class RowStore:
    """A file of blocks and an index, to which both are only appended.

    Rows that come together are entered into the index by one record with a checksum, after their blocks were written:
    whenever a process dies, each row is there whole or not at all. The blocks have checksums, too, which are compared
    when a row is first read: after a power failure an entry may have reached the disk without its block. A row that
    two processes bring is kept as the first wrote it. The folder may be read-only while nothing is written.

    Args:
        folder: Where ``index.bin`` and ``values.bin`` are or will be; the folder is made by the first ``write``.
        shares: How large the block of each row is expected to be relative to the others, (rows,); by it room for all
            of them is reserved at the first ``write``.

    Raises:
        ValueError: If the file of blocks is shorter than the index says, the index names rows that are not there, or,
            later, the folder was replaced by another.
    """

    def __init__(self, folder: Path, shares: NDArray[np.float64]) -> None:
        self.folder = folder
        self._shares = shares
        self._index, self._values = folder / "index.bin", folder / "values.bin"
        self._entries = np.zeros(len(shares), ENTRY)
        self._entries["offset"] = -1
        self._compared = np.zeros(len(shares), dtype=bool)
        self._read_to = 0
        self._end = 0
        self._bytes = memoryview(b"")
        self._mapped: tuple[int, int] | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type["RowStore"], tuple[Path, NDArray[np.float64]]]:
        return RowStore, (self.folder, self._shares)  # another process maps the file itself

    def __len__(self) -> int:
        """Number of rows that are known."""
        return int((self._entries["offset"] >= 0).sum())

    def refresh(self) -> None:
        """Read what was entered since the last time, by whichever process."""
        if self._mapped is not None and self._mapped != _identity(self._values):
            raise ValueError(
                f"teacher_cache: {str(self.folder)!r} was deleted or replaced while it was in use; start again"
            )
        try:
            with self._index.open("rb") as stream:
                stream.seek(self._read_to)
                new = stream.read()
        except FileNotFoundError:
            return
        at = 0
        while len(new) - at >= HEADER.itemsize:
            header = np.frombuffer(new, HEADER, 1, at)[0]
            stop = at + HEADER.itemsize + int(header["entries"]) * ENTRY.itemsize
            record = new[at + HEADER.itemsize : stop]
            if stop > len(new) or not record or zlib.crc32(record) != header["checksum"]:
                break  # being written, or left by a process that died, or zeros by a power failure
            entries = np.frombuffer(record, ENTRY)
            if entries["row"].max() >= len(self._entries):
                raise ValueError(f"{self._damaged()}: it names rows that the data do not have")
            self._entries[entries["row"]] = entries
            self._compared[entries["row"]] = False
            self._end = max(self._end, int((entries["offset"] + entries["size"]).max()))
            at = stop
        self._read_to += at
        if self._end > len(self._bytes):
            size = self._values.stat().st_size if self._values.exists() else 0
            if size < self._end:
                raise ValueError(f"{self._damaged()}: values.bin has {size:,} of {self._end:,} bytes")
            self._bytes, self._mapped = memoryview(np.memmap(self._values, np.uint8, "r")), _identity(self._values)

    def _damaged(self) -> str:
        return f"teacher_cache: {str(self.folder)!r} is damaged; delete this folder and it is filled again"

    def known(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of the rows can be read, (N,)."""
        for row in rows[~self._compared[rows]].tolist():
            entry = self._entries[row]
            if entry["offset"] < 0:
                continue
            if zlib.crc32(self._block(entry)) == entry["checksum"]:
                self._compared[row] = True
            else:
                entry["offset"] = -1
        return np.asarray(self._compared[rows])

    def _block(self, entry: np.void) -> memoryview:
        offset = int(entry["offset"])
        return self._bytes[offset : offset + int(entry["size"])]

    def origins(self, rows: Rows) -> NDArray[np.uint32]:
        """What ``write`` was told of known rows, (N,)."""
        return np.asarray(self._entries["origin"][rows])

    def read(self, rows: Rows) -> list[tuple[NDArray[np.uint8], int, int]]:
        """The blocks of known rows, in runs of rows whose blocks are alike.

        Returns:
            Blocks (n, size), contiguous, and the ``count`` and ``classes`` of their rows, for each run.
        """
        entries = self._entries[rows]
        kinds = entries[["count", "classes"]]
        starts = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist(), len(rows)]
        runs = []
        for start, stop in pairwise(starts):
            run = entries[start:stop]
            # many times as fast as indexing the bytes
            together = b"".join([self._block(entry) for entry in run])
            blocks = np.frombuffer(together, np.uint8).reshape(len(run), -1)
            runs.append((blocks, int(run["count"][0]), int(run["classes"][0])))
        return runs

    def write(
        self,
        rows: Rows,
        blocks: Sequence[bytes],
        counts: Sequence[int],
        classes: Sequence[int],
        origins: NDArray[np.uint32],
    ) -> None:
        """Enter rows, apart from those that are known meanwhile.

        Args:
            rows: (N,).
            blocks: The N blocks.
            counts: What to hand back with each, such as the number of its distributions.
            classes: As ``counts``, such as their length.
            origins: What tells what a row was made of, a checksum.

        Raises:
            OSError: If the disk has no room, or the folder cannot be written.
        """
        with locked(self.folder):
            self.refresh()
            _, first = np.unique(rows, return_index=True)
            chosen = first[~self.known(rows[first])]
            if not len(chosen):
                return
            entries = np.zeros(len(chosen), ENTRY)
            entries["row"] = rows[chosen]
            parts = [blocks[place] for place in chosen]
            entries["size"] = [len(part) for part in parts]
            entries["offset"] = self._end + np.cumsum(entries["size"]) - entries["size"]
            entries["count"], entries["classes"] = np.asarray(counts)[chosen], np.asarray(classes)[chosen]
            entries["origin"] = origins[chosen]
            entries["checksum"] = [zlib.crc32(part) for part in parts]
            together = b"".join(parts)
            self._reserve(self._end + len(together), len(together) / self._shares[rows[chosen]].sum())
            with self._values.open("r+b") as stream:
                stream.seek(self._end)
                stream.write(together)
            header = np.array([(len(entries), zlib.crc32(entries.tobytes()))], HEADER)
            with self._index.open("ab") as stream:
                stream.truncate(self._read_to)  # what a process that died left behind
                stream.write(header.tobytes() + entries.tobytes())
            self.refresh()

    def _reserve(self, needed: int, bytes_per_share: float) -> None:
        """Make the file of blocks large enough: what is missing on the disk is missing now, not in a mapped page."""
        self._values.touch()
        size = self._values.stat().st_size
        if size >= needed:
            return
        target = max(needed, round(bytes_per_share * self._shares.sum()) if size == 0 else needed + size // 8)
        try:
            with self._values.open("r+b") as stream:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), size, target - size)
                else:
                    stream.truncate(target)
        except OSError as error:
            if size == 0:
                self._values.unlink()
            raise OSError(error.errno, f"{target:,} bytes are needed: {error.strerror}") from error
