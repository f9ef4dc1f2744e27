"""Rows of bytes on disk: whole or absent, whoever writes, dies or damages them."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lightning_kd.teachers.store import ENTRY_DTYPE, RowStore
from tests.helpers import fill_disk

SCRIPT = Path(__file__).parent / "store_script.py"
ROWS = 20


def store(folder, rows=ROWS):
    return RowStore(folder, np.ones(rows))


def block(row):
    return bytes([row]) * (10 + row % 3)


def write(one, *rows, content=block):
    """Rows of a count and a number of classes that follow from the row."""
    array = np.array(rows)
    one.write(array, [content(row) for row in rows], [row % 3 for row in rows], [7] * len(rows), array.astype("u4"))


def contents(one, *rows):
    return [blocks[i].tobytes() for blocks, *_ in one.read(np.array(rows)) for i in range(len(blocks))]


def contains(one, *rows):
    return one.contains(np.array(rows)).tolist()


def stored_rows(one):
    return np.flatnonzero(one.contains(np.arange(ROWS))).tolist()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "rows"


def test_empty(folder):
    one = store(folder)
    assert len(one) == 0
    assert stored_rows(one) == []
    assert not folder.exists()  # made by the first row


def test_what_was_written_is_read(folder):
    one = store(folder)
    write(one, 3, 7, 1, 0)
    for reader in (one, store(folder)):
        assert len(reader) == 4
        assert contains(reader, 0, 1, 2, 3, 7) == [True, True, False, True, True]
        assert contents(reader, 7, 3, 3, 0) == [block(7), block(3), block(3), block(0)]
        assert reader.tags(np.array([7, 1])).tolist() == [7, 1]
    runs = one.read(np.array([3, 0, 1, 7, 3]))
    assert [(blocks.shape, count, classes) for blocks, count, classes in runs] == [
        ((2, 10), 0, 7),
        ((2, 11), 1, 7),
        ((1, 10), 0, 7),
    ]


def test_rows_that_come_twice_are_kept_once_and_as_they_came_first(folder):
    one, other = store(folder), store(folder)
    write(one, 2, 2, 5)
    size = (folder / "index.bin").stat().st_size
    write(one, 5, 2)
    write(other, 2, content=lambda row: b"another")
    assert (folder / "index.bin").stat().st_size == size
    assert contents(other, 2, 5) == contents(one, 2, 5) == [block(2), block(5)]


def test_what_another_process_wrote_is_seen_after_refresh(folder):
    one, other = store(folder), store(folder)
    write(one, 1)
    assert contains(other, 1) == [False]
    other.refresh()
    assert contains(other, 1) == [True]
    write(other, 2, 1)
    write(one, 3)  # looks first
    assert contains(one, 1, 2, 3) == [True, True, True]
    assert contents(one, 1, 2, 3) == [block(1), block(2), block(3)]


def test_empty_blocks(folder):
    one = store(folder)
    write(one, 1, 2, content=lambda row: b"")
    write(one, 3)
    for reader in (one, store(folder)):
        assert contains(reader, 1, 2, 3) == [True, True, True]
        assert contents(reader, 1, 2, 3) == [b"", b"", block(3)]


def test_space_is_reserved_for_all_rows_by_their_expected_sizes(folder):
    one = RowStore(folder, np.array([1.0, 1.0, 3.0, 5.0]))
    write(one, 2, content=lambda row: b"x" * 300)
    values = folder / "values.bin"
    assert values.stat().st_size == 1000
    assert values.stat().st_blocks * 512 >= 1000  # there, not only promised
    write(one, 3, content=lambda row: b"y" * 900)  # more than expected
    assert values.stat().st_size >= 1200
    assert [len(part) for part in contents(one, 2, 3)] == [300, 900]


def test_without_posix_fallocate(folder, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    one = store(folder)
    write(one, 1, 4)
    assert contents(one, 4, 1) == [block(4), block(1)]
    assert (folder / "values.bin").stat().st_size >= 10 * ROWS


@pytest.mark.parametrize("left", [1, 8, ENTRY_DTYPE.itemsize - 1])
def test_torn_end_of_the_index_is_passed_over_and_mended(folder, left):
    write(store(folder), 1, 2)
    index = folder / "index.bin"
    whole = index.read_bytes()
    write(store(folder), 3)
    index.write_bytes(index.read_bytes()[: len(whole) + left])
    torn = store(folder)
    assert stored_rows(torn) == [1, 2]
    write(torn, 4)
    for reader in (torn, store(folder)):
        assert stored_rows(reader) == [1, 2, 4]
        assert contents(reader, 1, 2, 4) == [block(1), block(2), block(4)]


def test_zeros_at_the_end_of_the_index_as_a_power_failure_leaves_them(folder):
    write(store(folder), 1, 2)
    with (folder / "index.bin").open("ab") as stream:
        stream.write(bytes(200))
    damaged = store(folder)
    assert stored_rows(damaged) == [1, 2]
    write(damaged, 3)
    assert stored_rows(store(folder)) == [1, 2, 3]


@pytest.mark.parametrize("place", [0, 5, 30, -1])
def test_flipped_byte_in_the_index(folder, place):
    write(store(folder), 1, 2)
    index = folder / "index.bin"
    first = index.stat().st_size
    write(store(folder), 3)
    content = bytearray(index.read_bytes())
    content[first + place if place >= 0 else place] ^= 1
    index.write_bytes(content)
    damaged = store(folder)
    assert stored_rows(damaged) == [1, 2]
    write(damaged, 3)
    assert stored_rows(store(folder)) == [1, 2, 3]


def test_flipped_byte_in_a_block_costs_that_row_only(folder):
    write(store(folder), 1, 2, 3)
    flip(folder / "values.bin", len(block(1)) + 4)
    damaged = store(folder)
    assert stored_rows(damaged) == [1, 3]
    write(damaged, 2)
    for reader in (damaged, store(folder)):
        assert contents(reader, 1, 2, 3) == [block(1), block(2), block(3)]


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 16
    file.write_bytes(content)


def test_row_that_another_process_found_damaged_and_wrote_again(folder):
    one = store(folder)
    write(one, 1, 2)
    assert stored_rows(one) == [1, 2]
    values = folder / "values.bin"
    flip(values, 3)
    write(store(folder), 1)
    flip(values, len(block(1)) + len(block(2)) + 3)  # the second time, too
    one.refresh()
    assert stored_rows(one) == [2]


@pytest.mark.parametrize("size", [0, 15, None])
def test_file_of_blocks_that_is_too_short_is_refused(folder, size):
    write(store(folder), 1, 2)
    if size is None:
        (folder / "values.bin").unlink()
    else:
        os.truncate(folder / "values.bin", size)
    with pytest.raises(ValueError, match=rf"is damaged \(values.bin has {size or 0} of 23 bytes\)"):
        store(folder)


def test_index_of_more_rows_is_refused(folder):
    write(store(folder), 5)
    with pytest.raises(ValueError, match="its index has more rows than the data"):
        store(folder, rows=5)


def test_folder_that_is_deleted_while_in_use(folder):
    """Its blocks can still be read; they are never taken for those of the folder that comes after."""
    one = store(folder)
    write(one, 1, 2)
    shutil.rmtree(folder)
    assert contents(one, 1, 2) == [block(1), block(2)]
    with pytest.raises(ValueError, match="was deleted or replaced during the run"):
        write(one, 3)
    other = store(folder)
    write(other, 1, 2, 4, content=lambda row: b"other")
    with pytest.raises(ValueError, match="was deleted or replaced"):
        one.refresh()
    assert contents(other, 1, 2, 4) == [b"other"] * 3


def test_pickled(folder):
    one = store(folder)
    write(one, 1)
    pickled = pickle.dumps(one)
    write(one, 2)
    assert contents(pickle.loads(pickled), 1, 2) == [block(1), block(2)]


def test_threads(folder):
    stores = [store(folder) for _ in range(4)]

    def write_all(one, first):
        for row in range(ROWS):
            write(one, (first + row) % ROWS)

    threads = [threading.Thread(target=write_all, args=(one, 5 * index)) for index, one in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(store(folder), *range(ROWS)) == [block(row) for row in range(ROWS)]


def run_script(*arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_killed_in_each_part_of_a_write(folder):
    assert run_script("killed_at_each", folder, 3)["rows"] == 400


def test_killed_at_random_moments(folder):
    result = run_script("killed", folder, 0)
    assert result["rows"] == 400
    assert result["killed"] >= 20  # of 25; one may end before it is killed


def test_processes_that_write_the_same_rows_at_once(folder):
    result = run_script("together", folder, 0)
    assert result["rows"] == 400
    assert result["writers"] > 1
    assert (folder / "values.bin").stat().st_size < 1.3 * result["size"]


def test_full_disk_is_one_error_and_leaves_what_is_there(small_disk):
    one = store(small_disk / "first")
    write(one, 1, 2, content=lambda row: bytes([row]) * 1000)
    fill_disk(small_disk)
    write(one, 3, content=lambda row: bytes([row]) * 1000)  # has its room
    other = store(small_disk / "second")
    with pytest.raises(
        OSError, match=r"teacher_cache: cannot write to '.*second' \(.*No space left on device\)"
    ) as full:
        write(other, 1, content=lambda row: bytes([row]) * 5000)
    assert full.value.errno == 28
    assert not (small_disk / "second" / "values.bin").exists()
    with pytest.raises(OSError, match=r"bytes needed: No space left on device\)"):
        write(one, *range(4, ROWS), content=lambda row: bytes(5000))  # more than was expected
    (small_disk / "ballast").unlink()
    write(other, 1)
    assert contents(other, 1) == [block(1)]
    with pytest.raises(OSError, match=r"\(\d,\d{3},\d{3} bytes needed: No space left on device\)"):
        write(store(small_disk / "third"), 1, content=lambda row: bytes(100_000))
    assert contents(store(small_disk / "first"), 1, 2, 3) == [bytes([row]) * 1000 for row in (1, 2, 3)]


def test_read_only_folder(small_disk):
    one = store(small_disk / "rows")
    write(one, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reader = store(small_disk / "rows")
    assert contents(reader, 1) == [block(1)]
    for folder in ("rows", "new"):
        with pytest.raises(OSError, match=rf"teacher_cache: cannot write to '.*{folder}' \(Read-only file system\)"):
            write(store(small_disk / folder), 2)
