"""Processes that write the same rows, and are killed while they do; run by test_cache_store.py.

Imports the module by path instead of the package, so that it starts fast and can fork.
"""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

FILE = Path(__file__).parents[2] / "lightning_kd" / "teachers" / "cache_store.py"
SPEC = importlib.util.spec_from_file_location("store", FILE)
store_module = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(store_module)

ROWS, BATCH, NUM_KILLS, NUM_WRITERS = 400, 8, 25, 3


def open_store(folder):
    return store_module.RowStore(Path(folder), np.ones(ROWS))


def block(row, writer):
    """Return a block that differs in length between rows and in content between writers."""
    return f"{row} of {writer};".encode() * (2000 + row % 7 * 500)


def write(store, rows, writer):
    blocks = [block(row, writer) for row in rows]
    rows = np.asarray(rows)
    store.write(rows, blocks, [writer] * len(rows), [len(one) for one in blocks], rows.astype("u4"))


def read_writers(store):
    """Return the writer of each stored row; raise if a block is not whole."""
    rows = np.flatnonzero(store.contains(np.arange(ROWS)))
    assert len(rows) == len(store), "an indexed row is not whole"
    writers = {}
    for row in rows.tolist():
        [(blocks, writer, size)] = store.read(np.array([row]))
        assert blocks.tobytes() == block(row, writer), row
        assert size == blocks.size
        assert store.tags(np.array([row])) == row
        writers[row] = writer
    return writers


def start(function, *arguments):
    """Run a function in a new process, and return the process."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def exit_code(process):
    process.join()
    return process.exitcode


def write_all(folder, writer, check=False):
    """Write all rows in random order; with ``check`` check after each batch that no row was replaced."""
    store = open_store(folder)
    rows = random.Random(writer).sample(range(ROWS), ROWS)
    seen = {}
    for start in range(0, ROWS, BATCH):
        write(store, rows[start : start + BATCH], writer)
        if check:
            seen = {**read_writers(store), **seen}
    store.refresh()
    assert seen.items() <= read_writers(store).items(), "a row was replaced"


def kill_at_random(folder):
    """Kill writers at random times: no row may be lost or torn, and a last writer completes them."""
    generator, killed, before = random.Random(0), 0, {}
    for writer in range(NUM_KILLS):
        process = start(write_all, folder, writer)
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        killed += exit_code(process) == -signal.SIGKILL
        writers = read_writers(open_store(folder))
        assert before.items() <= writers.items(), "a row was lost"
        before = writers
    assert exit_code(start(write_all, folder, NUM_KILLS)) == 0
    return {"killed": killed, "rows": len(read_writers(open_store(folder)))}


class DyingFile(io.FileIO):
    """An unbuffered file whose process is killed before, in the middle of, or after a write."""

    points_to_pass = 0  # by all files

    def write(self, data):
        for part in (data[: len(data) // 2], data[len(data) // 2 :], b""):
            if DyingFile.points_to_pass == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            DyingFile.points_to_pass -= 1
            super().write(part)


def write_and_die(folder, rows, point):
    store, path_open = open_store(folder), Path.open
    Path.open = lambda path, mode: path_open(path, mode) if mode == "rb" else DyingFile(path, mode)
    DyingFile.points_to_pass = point
    write(store, rows, point)


def kill_at_each_write(folder):
    """Kill a writer at each point of the two writes, first of the values, then of the index."""
    indexed = {4: BATCH // 2, 5: BATCH, 6: BATCH}  # rows in the index at points 4 to 6; 6 = not killed
    stored = []
    for point in range(7):
        rows = range(point * BATCH, (point + 1) * BATCH)
        assert exit_code(start(write_and_die, folder, rows, point)) == (0 if point == 6 else -signal.SIGKILL)
        stored += rows[: indexed.get(point, 0)]
        assert sorted(read_writers(open_store(folder))) == stored
    assert exit_code(start(write_all, folder, 7)) == 0
    return {"rows": len(read_writers(open_store(folder)))}


def write_concurrently(folder):
    """Write the same rows from several processes."""
    processes = [start(write_all, folder, writer, True) for writer in range(NUM_WRITERS)]
    assert [exit_code(process) for process in processes] == [0] * NUM_WRITERS
    writers = read_writers(open_store(folder))
    size = sum(len(block(row, writer)) for row, writer in writers.items())
    return {"rows": len(writers), "writers": len(set(writers.values())), "size": size}


def use_truncated(folder, use):
    """Use a store whose values another program truncates."""
    store, rows = open_store(folder), np.arange(BATCH)
    write(store, rows, 0)
    if use == "contains":
        store = open_store(folder)  # verifies the rows
    size = (store.folder / "values.bin").stat().st_size
    os.truncate(store.folder / "values.bin", 0)
    try:
        write(store, rows + 1, 0) if use == "write" else getattr(store, use)(rows)
    except ValueError as error:
        return {"message": str(error), "size": size}


def hold_lock(folder, held):
    with store_module.folder_lock(Path(folder)):
        held.set()
        os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_suspended(folder):
    """Write while a suspended process holds the lock, which continues once the writer has printed something."""
    store_module.LOCK_NOTICE_SECONDS = 0.1
    held, printed = multiprocessing.get_context("fork").Event(), io.StringIO()
    holder = start(hold_lock, folder, held)
    held.wait()
    printed.write = lambda text, write=printed.write: (write(text), os.kill(holder.pid, signal.SIGCONT))
    with contextlib.redirect_stderr(printed):
        write(open_store(folder), [0], 0)
    return {"printed": printed.getvalue(), "pid": holder.pid, "rows": len(open_store(folder))}


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    functions = (kill_at_random, kill_at_each_write, write_concurrently, use_truncated, wait_for_suspended)
    print(json.dumps({function.__name__: function for function in functions}[name](*arguments)))
