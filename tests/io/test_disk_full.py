"""A disk that is full or read-only: one line that says so, and what was written before is intact."""

import contextlib
import subprocess
import sys

import datasets
import pytest
import torch

from tests.cli.test_fit import config, folder  # noqa: F401
from tests.conftest import save_network, tiny_bert


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def squeeze(disk, room=0):
    """Fill the disk but for some bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    with ballast.open("r+b") as stream:
        stream.truncate(ballast.stat().st_size - room)


def left(disk):
    """What lies on a disk besides the ballast, and how it is."""
    return {file: file.stat().st_mtime_ns for file in disk.rglob("*") if file.is_file() and file.name != "ballast"}


FULL = "the disk is full: free some space, then try again, or continue with fit --resume"


def test_disk_full(small_disk, shell, config):  # noqa: F811
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--last.every_minutes=0"]
    assert shell("fit", *arguments)[0] == 0
    last = folder(small_disk) / "checkpoints" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    squeeze(small_disk)
    code, message = shell("fit", "--resume", folder(small_disk), "--trainer.max_epochs=4")
    assert code
    assert f"No space left on device: '{folder(small_disk)}'; {FULL}" in message
    assert torch.load(last, weights_only=True)["global_step"] == steps


@pytest.mark.parametrize("what", ["best.ckpt", "last.ckpt"])
def test_no_room_for_a_checkpoint(small_disk, shell, config, what):  # noqa: F811
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--trainer.max_epochs=1"]
    assert shell("fit", *arguments)[0] == 0
    squeeze(small_disk, 100_000)
    before = left(small_disk)
    code, message = shell("fit", *arguments, f"--last.every_minutes={0 if what == 'last.ckpt' else 100}")
    assert code
    assert f"{folder(small_disk, 1) / 'checkpoints' / what}'; {FULL}" in message
    assert left(small_disk) == before
    assert not folder(small_disk, 1).exists()


@pytest.mark.parametrize("room", [0, 40_000])
def test_no_room_for_the_student(small_disk, shell, config, room, tmp_path):  # noqa: F811
    arguments = ["--config", config, "--trainer.max_epochs=1", f"--export.folder={small_disk / 'student'}"]
    assert shell("fit", *arguments)[0] == 0
    squeeze(small_disk, room)
    before = left(small_disk)
    code, message = shell("fit", *arguments)
    assert code
    assert f"No space left on device: '{small_disk / 'student'}'; {FULL}" in message
    assert left(small_disk) == before
    (small_disk / "ballast").unlink()
    assert shell("fit", "--resume", folder(tmp_path, 1))[0] == 0  # trains no more, but exports
    assert left(small_disk).keys() == before.keys()
    assert left(small_disk) != before


@pytest.mark.parametrize("room", [0, 8192])
def test_no_room_for_tokenised_rows(small_disk, shell, config, room, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", small_disk)
    squeeze(small_disk, room)
    code, message = shell("fit", "--config", config)
    assert code
    assert f".arrow'; {FULL}" in message or f"'{small_disk / 'lightning_kd'}'; {FULL}" in message
    assert not folder(tmp_path).exists()
    (small_disk / "ballast").unlink()
    assert shell("fit", "--config", config)[0] == 0


def test_no_room_for_logs_in_a_process(small_disk, config):  # noqa: F811
    """TensorBoard writes in a thread, whose error must not come with a traceback of its own."""
    squeeze(small_disk, 8192)
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--last.every_minutes=100"]
    command = [sys.executable, "-m", "lightning_kd", "fit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count(FULL) == 1
    assert FULL in done.stderr.splitlines()[-1]
    assert not left(small_disk)


@pytest.mark.parametrize("room", [0, 100_000])
def test_disk_full_during_export(small_disk, shell, tmp_path, clinc_file, room):
    model = save_network(tiny_bert(), tmp_path / "model")
    squeeze(small_disk, room)
    rows = ["--data", "CLINC150DataModule", "--data.path", clinc_file]
    code, _ = shell("export", "--model", model, "--to", "ONNXExport", "--to.folder", small_disk / "x", *rows)
    assert "the disk is full: free some space, then try again" in code
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


@pytest.fixture
def read_only(tmp_path):
    """A folder in which nobody can write, not even root."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    try:
        for mount in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
            subprocess.run(["mount", *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a folder on itself")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["is read-only", "is no folder"])
def test_place_that_cannot_be_written(request, shell, config, tmp_path, kind, monkeypatch):  # noqa: F811
    """Found before training, not when there is something to write."""
    place = request.getfixturevalue("read_only") if kind == "is read-only" else config
    for field, value, command in (
        ("trainer.default_root_dir", place, "fit"),
        ("export.folder", place / "student", "fit"),
        ("predictions.path", place / "a.csv", "predict"),
    ):
        code, message = shell(command, "--config", config, f"--{field}={value}")
        assert code
        assert f"error: {field}: '{value}" in message
        assert f"cannot be written, '{place}' {kind}; choose another place" in message
        assert not list(folder(tmp_path).rglob("*.ckpt"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place)
    assert f"error: HF_DATASETS_CACHE: '{place}" in shell("fit", "--config", config, "--data.init_args.max_length=9")[1]
