"""A disk that fills up: one line that says so, and what was written before is intact."""

import contextlib
import subprocess

import pytest
import torch

from tests.conftest import save_network, tiny_bert
from tests.test_cli import config, folder  # noqa: F401


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


# TensorBoard writes in a thread of its own, which fails on its own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_disk_full(small_disk, shell, config):  # noqa: F811
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--last.every_minutes=0"]
    assert shell("fit", *arguments)[0] == 0
    last = folder(small_disk) / "checkpoints" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    fill(small_disk)
    code, message = shell("fit", "--resume", folder(small_disk), "--trainer.max_epochs=4")
    assert code
    assert "the disk is full: free some space, then continue with fit --resume" in message
    assert torch.load(last, weights_only=True)["global_step"] == steps


@pytest.mark.parametrize("room", [0, 100_000])
def test_disk_full_during_export(small_disk, shell, tmp_path, clinc_file, room):
    model = save_network(tiny_bert(), tmp_path / "model")
    fill(small_disk)
    with (small_disk / "ballast").open("r+b") as ballast:
        ballast.truncate((small_disk / "ballast").stat().st_size - room)
    rows = ["--data", "CLINC150DataModule", "--data.path", clinc_file]
    code, _ = shell("export", "--model", model, "--to", "ONNXExport", "--to.folder", small_disk / "x", *rows)
    assert "the disk is full: free some space, then try again" in code
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


def fill(disk):
    with (disk / "ballast").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
