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

HEADER_DTYPE = np.dtype([("entries", "<u4"), ("checksum", "<u4")])
ENTRY_DTYPE = np.dtype(
    [("row", "<i8"), ("offset", "<i8")]
    + [(name, "<u4") for name in ("num_distributions", "num_classes", "size", "checksum", "tag")]
)

RowIds = NDArray[np.int64]


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
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


def _file_id(file: Path) -> tuple[int, int] | None:
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
        expected_sizes: How large the block of each row is expected to be relative to the others, (rows,); by it room
            for all of them is reserved at the first ``write``.

    Raises:
        ValueError: If the file of blocks is shorter than the index says, the index names rows that are not there, or,
            later, the folder was replaced by another.
    """

    def __init__(self, folder: Path, expected_sizes: NDArray[np.float64]) -> None:
        self.folder = folder
        self._expected_sizes = expected_sizes
        self._index, self._values = folder / "index.bin", folder / "values.bin"
        self._entries = np.zeros(len(expected_sizes), ENTRY_DTYPE)
        self._entries["offset"] = -1
        self._verified = np.zeros(len(expected_sizes), dtype=bool)
        self._index_offset = 0
        self._values_end = 0
        self._buffer = memoryview(b"")
        self._mapped_file_id: tuple[int, int] | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type["RowStore"], tuple[Path, NDArray[np.float64]]]:
        return RowStore, (self.folder, self._expected_sizes)  # another process maps the file itself

    def __len__(self) -> int:
        """Number of rows that are known."""
        return int((self._entries["offset"] >= 0).sum())

    def refresh(self) -> None:
        """Read what was entered since the last time, by whichever process."""
        if self._mapped_file_id is not None and self._mapped_file_id != _file_id(self._values):
            raise ValueError(
                f"teacher_cache: {str(self.folder)!r} was deleted or replaced while it was in use; start again"
            )
        try:
            with self._index.open("rb") as stream:
                stream.seek(self._index_offset)
                data = stream.read()
        except FileNotFoundError:
            return
        position = 0
        while len(data) - position >= HEADER_DTYPE.itemsize:
            header = np.frombuffer(data, HEADER_DTYPE, 1, position)[0]
            stop = position + HEADER_DTYPE.itemsize + int(header["entries"]) * ENTRY_DTYPE.itemsize
            record = data[position + HEADER_DTYPE.itemsize : stop]
            if stop > len(data) or not record or zlib.crc32(record) != header["checksum"]:
                break  # being written, or left by a process that died, or zeros by a power failure
            entries = np.frombuffer(record, ENTRY_DTYPE)
            if entries["row"].max() >= len(self._entries):
                raise ValueError(f"{self._damage_message()}: it names rows that the data do not have")
            self._entries[entries["row"]] = entries
            self._verified[entries["row"]] = False
            self._values_end = max(self._values_end, int((entries["offset"] + entries["size"]).max()))
            position = stop
        self._index_offset += position
        if self._values_end > len(self._buffer):
            size = self._values.stat().st_size if self._values.exists() else 0
            if size < self._values_end:
                raise ValueError(f"{self._damage_message()}: values.bin has {size:,} of {self._values_end:,} bytes")
            self._buffer, self._mapped_file_id = (
                memoryview(np.memmap(self._values, np.uint8, "r")),
                _file_id(self._values),
            )

    def _damage_message(self) -> str:
        return f"teacher_cache: {str(self.folder)!r} is damaged; delete this folder and it is filled again"

    def contains(self, rows: RowIds) -> NDArray[np.bool_]:
        """Which of the rows can be read, (N,)."""
        for row in rows[~self._verified[rows]].tolist():
            entry = self._entries[row]
            if entry["offset"] < 0:
                continue
            if zlib.crc32(self._block(entry)) == entry["checksum"]:
                self._verified[row] = True
            else:
                entry["offset"] = -1
        return np.asarray(self._verified[rows])

    def _block(self, entry: np.void) -> memoryview:
        offset = int(entry["offset"])
        return self._buffer[offset : offset + int(entry["size"])]

    def tags(self, rows: RowIds) -> NDArray[np.uint32]:
        """What ``write`` was told of known rows, (N,)."""
        return np.asarray(self._entries["tag"][rows])

    def read(self, rows: RowIds) -> list[tuple[NDArray[np.uint8], int, int]]:
        """The blocks of known rows, in runs of rows whose blocks are alike.

        Returns:
            Blocks (n, size), contiguous, and the ``num_distributions`` and ``num_classes`` of their rows, for each run.
        """
        entries = self._entries[rows]
        shapes = entries[["num_distributions", "num_classes"]]
        starts = [0, *(np.flatnonzero(shapes[1:] != shapes[:-1]) + 1).tolist(), len(rows)]
        runs = []
        for start, stop in pairwise(starts):
            run = entries[start:stop]
            # many times as fast as indexing the bytes
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
        """Enter rows, apart from those that are known meanwhile.

        Args:
            rows: (N,).
            blocks: The N blocks.
            num_distributions: What to hand back with each, such as the number of its distributions.
            num_classes: As ``num_distributions``, such as their length.
            tags: What tells what a row was made of, a checksum.

        Raises:
            OSError: If the disk has no room, or the folder cannot be written.
        """
        with folder_lock(self.folder):
            self.refresh()
            _, first = np.unique(rows, return_index=True)
            new = first[~self.contains(rows[first])]
            if not len(new):
                return
            entries = np.zeros(len(new), ENTRY_DTYPE)
            entries["row"] = rows[new]
            parts = [blocks[index] for index in new]
            entries["size"] = [len(part) for part in parts]
            entries["offset"] = self._values_end + np.cumsum(entries["size"]) - entries["size"]
            entries["num_distributions"], entries["num_classes"] = (
                np.asarray(num_distributions)[new],
                np.asarray(num_classes)[new],
            )
            entries["tag"] = tags[new]
            entries["checksum"] = [zlib.crc32(part) for part in parts]
            joined = b"".join(parts)
            self._reserve(self._values_end + len(joined), len(joined) / self._expected_sizes[rows[new]].sum())
            with self._values.open("r+b") as stream:
                stream.seek(self._values_end)
                stream.write(joined)
            header = np.array([(len(entries), zlib.crc32(entries.tobytes()))], HEADER_DTYPE)
            with self._index.open("ab") as stream:
                stream.truncate(self._index_offset)  # what a process that died left behind
                stream.write(header.tobytes() + entries.tobytes())
            self.refresh()

    def _reserve(self, min_bytes: int, bytes_per_unit: float) -> None:
        """Make the file of blocks large enough: what is missing on the disk is missing now, not in a mapped page."""
        self._values.touch()
        size = self._values.stat().st_size
        if size >= min_bytes:
            return
        target = max(
            min_bytes, round(bytes_per_unit * self._expected_sizes.sum()) if size == 0 else min_bytes + size // 8
        )
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
