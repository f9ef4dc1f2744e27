"""The row store: rows are whole or absent, whoever writes, is killed or damages the files."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lightning_kd.teachers.cache_store import RowStore
from tests.helpers import fill_disk

SCRIPT = Path(__file__).parent / "cache_store_script.py"
ROWS = 20


def open_store(folder, rows=ROWS):
    return RowStore(folder, np.ones(rows))


def block(row):
    """Return 0, 10 or 20 bytes."""
    return bytes([row]) * (row % 3 * 10)


def write(store, *rows, content=block):
    """Write rows with the number of distributions ``row % 3`` and the row as tag."""
    ids = np.array(rows)
    store.write(ids, [content(row) for row in rows], [row % 3 for row in rows], [7] * len(rows), ids.astype("u4"))


def read(store, *rows):
    return [one.tobytes() for blocks, *_ in store.read(np.array(rows)) for one in blocks]


def stored_rows(store):
    return np.flatnonzero(store.contains(np.arange(ROWS))).tolist()


def flip_bit(file, offset):
    content = bytearray(file.read_bytes())
    content[offset] ^= 16
    file.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "rows"


# ---- reading and writing


def test_rows_are_read_as_written(folder):
    writer = open_store(folder)
    assert len(writer) == 0
    assert stored_rows(writer) == []
    assert not folder.exists()  # created by the first write
    write(writer, 3, 0)  # two empty blocks
    write(writer, 7, 1)
    for store in (writer, open_store(folder), pickle.loads(pickle.dumps(writer))):
        assert len(store) == 4
        assert stored_rows(store) == [0, 1, 3, 7]
        assert read(store, 7, 3, 3, 0) == [block(7), block(3), block(3), block(0)]
        assert store.tags(np.array([7, 1])).tolist() == [7, 1]
        runs = store.read(np.array([3, 0, 1, 7, 3]))
        assert [(blocks.shape, count, classes) for blocks, count, classes in runs] == [
            ((2, 0), 0, 7),
            ((2, 10), 1, 7),
            ((1, 0), 0, 7),
        ]


def test_first_write_of_a_row_wins(folder):
    first, second = open_store(folder), open_store(folder)
    write(first, 2, 2, 5)
    size = (folder / "index.bin").stat().st_size
    write(first, 5, 2)
    write(second, 2, content=lambda row: b"another")
    assert (folder / "index.bin").stat().st_size == size
    assert read(second, 2, 5) == read(first, 2, 5) == [block(2), block(5)]


def test_refresh(folder):
    first, second = open_store(folder), open_store(folder)
    write(first, 1)
    assert stored_rows(second) == []
    second.refresh()
    assert stored_rows(second) == [1]
    write(second, 2, 1)
    write(first, 3)  # refreshes before it writes
    assert stored_rows(first) == [1, 2, 3]
    assert read(first, 1, 2, 3) == [block(1), block(2), block(3)]


def test_space_for_all_rows_is_reserved(folder):
    store = RowStore(folder, np.array([1.0, 1.0, 3.0, 5.0]))
    write(store, 2, content=lambda row: b"x" * 300)
    values = folder / "values.bin"
    assert values.stat().st_size == 1000
    assert values.stat().st_blocks * 512 >= 1000  # not sparse
    write(store, 3, content=lambda row: b"y" * 900)  # larger than expected
    assert values.stat().st_size >= 1200
    assert [len(part) for part in read(store, 2, 3)] == [300, 900]


def test_without_posix_fallocate(folder, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    store = open_store(folder)
    write(store, 1, 4)
    assert read(store, 4, 1) == [block(4), block(1)]
    assert (folder / "values.bin").stat().st_size >= 10 * ROWS


# ---- damaged files


def fill_with_zeros(file, size):
    """Replace the end of a file by zeros, as a power failure does."""
    os.truncate(file, size)
    os.truncate(file, size + 200)


@pytest.mark.parametrize(
    ("damage", "position"),
    [*product([os.truncate], [1, 8, 39]), (fill_with_zeros, 0), *product([flip_bit], [0, 5, 30, 39])],
)
def test_damaged_last_entry_of_the_index(folder, damage, position):
    """The damaged entry, of 40 bytes, is ignored and overwritten."""
    write(open_store(folder), 1, 2)
    index = folder / "index.bin"
    end = index.stat().st_size
    write(open_store(folder), 3)
    damage(index, end + position)
    damaged = open_store(folder)
    assert stored_rows(damaged) == [1, 2]
    write(damaged, 4)
    for store in (damaged, open_store(folder)):
        assert stored_rows(store) == [1, 2, 4]
        assert read(store, 1, 2, 4) == [block(1), block(2), block(4)]


def test_damaged_block_costs_one_row(folder):
    write(open_store(folder), 1, 2, 3)
    flip_bit(folder / "values.bin", len(block(1)) + 4)
    damaged = open_store(folder)
    assert stored_rows(damaged) == [1, 3]
    write(damaged, 2)
    for store in (damaged, open_store(folder)):
        assert read(store, 1, 2, 3) == [block(1), block(2), block(3)]


def test_damaged_block_rewritten_by_another_process(folder):
    store = open_store(folder)
    write(store, 1, 2)
    assert stored_rows(store) == [1, 2]
    values = folder / "values.bin"
    flip_bit(values, 3)
    write(open_store(folder), 1)
    flip_bit(values, len(block(1)) + len(block(2)) + 3)  # damage the new one, too
    store.refresh()
    assert stored_rows(store) == [2]


@pytest.mark.parametrize("size", [0, 15, None])
def test_values_file_too_short(folder, size):
    write(open_store(folder), 1, 2)
    values = folder / "values.bin"
    values.unlink() if size is None else os.truncate(values, size)
    with pytest.raises(ValueError, match=rf"'{folder}' is damaged \(values.bin has {size or 0} of 30 bytes\)"):
        open_store(folder)


@pytest.mark.parametrize("use", ["read", "contains", "write"])
def test_values_file_truncated_while_in_use(folder, use):
    """Reading a mapped page behind the end of the file would kill the process by SIGBUS."""
    result = run_script("use_truncated", folder, use)
    assert f"'{folder}' is damaged (values.bin has 0 of {result['size']:,} bytes); delete it" in result["message"]


def test_index_with_more_rows_than_the_data(folder):
    write(open_store(folder), 5)
    with pytest.raises(ValueError, match=rf"'{folder}' is damaged \(its index has more rows"):
        open_store(folder, rows=5)


def test_folder_replaced_while_in_use(folder):
    """Old rows can still be read; they are never mixed with rows of the new folder."""
    old = open_store(folder)
    write(old, 1, 2)
    shutil.rmtree(folder)
    assert read(old, 1, 2) == [block(1), block(2)]
    with pytest.raises(ValueError, match=f"'{folder}' was deleted or replaced"):
        write(old, 3)
    new = open_store(folder)
    write(new, 1, 2, 4, content=lambda row: b"other")
    with pytest.raises(ValueError, match=f"'{folder}' was deleted or replaced"):
        old.refresh()
    assert read(new, 1, 2, 4) == [b"other"] * 3


# ---- several threads and processes


def test_threads(folder):
    def write_all(first):
        store = open_store(folder)
        for row in range(ROWS):
            write(store, (first + row) % ROWS)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(write_all, [0, 5, 10, 15]))  # raises their errors
    assert read(open_store(folder), *range(ROWS)) == [block(row) for row in range(ROWS)]


def run_script(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_killed_in_each_part_of_a_write(folder):
    assert run_script("kill_at_each_write", folder)["rows"] == 400


def test_killed_at_random_times(folder):
    result = run_script("kill_at_random", folder)
    assert result["rows"] == 400
    assert result["killed"] >= 20  # of 25; a process may finish before it is killed


def test_concurrent_writers_of_the_same_rows(folder):
    result = run_script("write_concurrently", folder)
    assert result["rows"] == 400
    assert result["writers"] > 1
    assert (folder / "values.bin").stat().st_size < 1.3 * result["size"]


def test_suspended_lock_holder_is_named(folder):
    """A process that waits for the lock says so once, and then goes on."""
    result = run_script("wait_for_suspended", folder)
    assert result["printed"] == (
        f"teacher_cache: waiting for {str(folder / 'lock')!r}, which another process (pid {result['pid']}) holds\n"
    )
    assert result["rows"] == 1


# ---- file systems


def test_full_disk(small_disk):
    first, second = open_store(small_disk / "first"), open_store(small_disk / "second")
    write(first, 1, 2, content=lambda row: bytes([row]) * 1000)
    fill_disk(small_disk)
    write(first, 3, content=lambda row: bytes([row]) * 1000)  # in reserved space
    with pytest.raises(OSError, match=r"teacher_cache: cannot write to '.*second' \(.*No space left") as error:
        write(second, 1, content=lambda row: bytes([row]) * 5000)
    assert error.value.errno == 28
    assert not (small_disk / "second" / "values.bin").exists()
    with pytest.raises(OSError, match="bytes needed: No space left"):
        write(first, *range(4, ROWS), content=lambda row: bytes(5000))  # larger than expected
    (small_disk / "ballast").unlink()
    write(second, 1)
    assert read(second, 1) == [block(1)]
    with pytest.raises(OSError, match=r"\(\d,\d{3},\d{3} bytes needed: No space left"):
        write(open_store(small_disk / "third"), 1, content=lambda row: bytes(100_000))
    assert read(open_store(small_disk / "first"), 1, 2, 3) == [bytes([row]) * 1000 for row in (1, 2, 3)]


def test_read_only_folder(small_disk):
    write(open_store(small_disk / "rows"), 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert read(open_store(small_disk / "rows"), 1) == [block(1)]
    for name in ("rows", "new"):
        with pytest.raises(OSError, match=rf"teacher_cache: cannot write to '.*{name}' \(Read-only file system\)"):
            write(open_store(small_disk / name), 2)
