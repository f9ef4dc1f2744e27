"""Files and directories are complete, old or new, after errors and kills."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lightning_kd.io.atomic import atomic_directory, atomic_write


@pytest.mark.parametrize("texts", [["new"], ["old", "new"]])
def test_new_content_replaces_old(tmp_path, texts):
    file, folder = tmp_path / "deep down" / "a name.txt", tmp_path / "deep down" / "folder"
    for text in texts:
        with atomic_write(file) as path:
            path.write_text(text)
        with atomic_directory(folder) as path:
            (path / text).touch()
    assert file.read_text() == "new"
    assert [entry.name for entry in folder.iterdir()] == ["new"]
    assert set(file.parent.iterdir()) == {file, folder}


def test_failed_write_leaves_no_files(tmp_path):
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "x") as path:  # noqa: PT012
        path.write_text("half")
        raise OSError("full")
    with pytest.raises(OSError, match="full"), atomic_directory(tmp_path / "x") as path:  # noqa: PT012
        (path / "y").write_text("half")
        raise OSError("full")
    assert not list(tmp_path.iterdir())


SLOW = """
import sys, time, pathlib
from lightning_kd.io.atomic import atomic_directory
while True:
    with atomic_directory(pathlib.Path(sys.argv[1])) as folder:
        for name in "abcdefgh":
            (folder / name).write_text(name)
            time.sleep(0.002)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031, 0.047])
def test_directory_is_complete_or_absent_after_a_kill(tmp_path, delay):
    target = tmp_path / "x"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(target)])
    while not any(tmp_path.iterdir()):
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists() or {file.name for file in target.iterdir()} == set("abcdefgh")


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, 1):  # 1 is alive
        (tmp_path / f".x.{process}.tmp").mkdir()
        (tmp_path / f".y.ckpt.{process}.tmp.ckpt").touch()
    with atomic_directory(tmp_path / "x"), atomic_write(tmp_path / "y.ckpt") as file:
        file.touch()
    assert {file.name for file in tmp_path.iterdir()} == {"x", ".x.1.tmp", "y.ckpt", ".y.ckpt.1.tmp.ckpt"}
