"""Run by tests/teachers/test_store.py: processes that write the same rows, and are killed while they do.

It imports the one module, not the package, so that it starts at once and may fork.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

FILE = Path(__file__).parents[2] / "lightning_kd" / "teachers" / "store.py"
SPEC = importlib.util.spec_from_file_location("row_store", FILE)
row_store = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(row_store)

ROWS, NUM_KILLS, NUM_WRITERS = 400, 25, 3


def store(folder):
    return row_store.RowStore(Path(folder), np.ones(ROWS))


def block(row, writer):
    """Ragged, and another from each writer."""
    return f"{row} of {writer};".encode() * (2000 + row % 7 * 500)


def write(one, rows, writer):
    rows = np.asarray(rows)
    sizes = [len(block(row, writer)) for row in rows]
    one.write(rows, [block(row, writer) for row in rows], [writer] * len(rows), sizes, rows.astype("u4"))


def writers_of(one):
    """Who wrote each row that is there; fails where a block is not whole."""
    rows = np.flatnonzero(one.contains(np.arange(ROWS)))
    assert len(rows) == len(one), "a row that is entered is not whole"
    found = {}
    for row in rows.tolist():
        [(blocks, writer, size)] = one.read(np.array([row]))
        assert blocks.tobytes() == block(row, writer), row
        assert size == blocks.size
        assert one.tags(np.array([row])) == row
        found[row] = writer
    return found


def fork(work, *arguments):
    """A process that ends with ``work``."""
    if pid := os.fork():
        return pid
    try:
        work(*arguments)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def write_in_any_order(folder, writer, watch=False):
    one, generator = store(folder), random.Random(writer)
    rows = generator.sample(range(ROWS), ROWS)
    seen = {}
    for start in range(0, ROWS, 8):
        write(one, rows[start : start + 8], writer)
        if watch:
            seen = {**writers_of(one), **seen}  # what it saw first
    one.refresh()
    assert seen.items() <= writers_of(one).items(), "a row was replaced"


def killed(folder, seed):
    """Writers that are killed at any moment leave whole rows only; what is there stays, what is missing comes."""
    generator, rounds, left = random.Random(seed), 0, []
    before = {}
    for number in range(NUM_KILLS):
        pid = fork(write_in_any_order, folder, number)
        time.sleep(generator.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        rounds += os.waitpid(pid, 0)[1] == signal.SIGKILL
        found = writers_of(store(folder))
        assert before.items() <= found.items(), "a row was lost"
        left.append(len(found) - len(before))
        before = found
    finished = fork(write_in_any_order, folder, NUM_KILLS)
    assert os.waitpid(finished, 0)[1] == 0
    return {"killed": rounds, "added": left, "rows": len(writers_of(store(folder)))}


class DyingFile:
    """A file of a process that is killed in the middle of one of its writes.

    Args:
        file: Unbuffered.
        writes: How many parts of a write there still are, in a list: each has the beginning, the middle and the end.
    """

    def __init__(self, file, writes):
        self.file, self.writes = file, writes

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        for part in (data[: len(data) // 2], data[len(data) // 2 :], b""):
            if self.writes[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.writes[0] -= 1
            self.file.write(part)


def write_until(folder, rows, part):
    one, real_open, writes = store(folder), Path.open, [part]

    def dying_open(path, mode="r"):
        return real_open(path, mode) if mode == "rb" else DyingFile(real_open(path, mode, buffering=0), writes)

    Path.open = dying_open
    write(one, rows, part)


def killed_at_each(folder, seed):
    """Killed at the beginning, the middle and the end of each write of two files."""
    parts, whole = 6, []
    for part in range(parts + 1):
        rows = range(seed + part * 8, seed + part * 8 + 8)
        pid = fork(write_until, folder, rows, part)
        assert os.waitpid(pid, 0)[1] == (0 if part == parts else signal.SIGKILL)
        whole += rows[: {4: 4, 5: 8, 6: 8}.get(part, 0)]  # as far as the index was written, which comes last
        assert sorted(writers_of(store(folder))) == whole
    pid = fork(write_in_any_order, folder, parts)
    assert os.waitpid(pid, 0)[1] == 0
    return {"rows": len(writers_of(store(folder)))}


def together(folder, seed):
    """Writers of the same rows at once: each row is whole, and never another than it was when first seen."""
    pids = [fork(write_in_any_order, folder, seed + number, True) for number in range(NUM_WRITERS)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * NUM_WRITERS
    found = writers_of(store(folder))
    size = sum(len(block(row, writer)) for row, writer in found.items())
    return {"rows": len(found), "writers": len(set(found.values())), "size": size}


if __name__ == "__main__":
    name, folder, seed = sys.argv[1:]
    print(
        json.dumps({"killed": killed, "killed_at_each": killed_at_each, "together": together}[name](folder, int(seed)))
    )
