"""A full or read-only disk gives a one-line error and leaves existing files intact."""

import subprocess
import sys

import datasets
import pytest
import torch

from tests.helpers import fill_disk, save_model, tiny_bert, version_dir


def snapshot(disk):
    """Return the files on a disk, except the ballast, and when they were modified."""
    return {file: file.stat().st_mtime_ns for file in disk.rglob("*") if file.is_file() and file.name != "ballast"}


DISK_FULL_MESSAGE = "the disk is full: free space"


def assert_disk_full(result, path):
    """Check the exit code and the message of a command; the message names the file or folder."""
    code, message = result
    assert code
    assert f"{path}'; {DISK_FULL_MESSAGE}" in message


def test_no_space_on_resume(small_disk, shell, config):
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--last_checkpoint.every_minutes=0"]
    assert shell("fit", *arguments)[0] == 0
    last = version_dir(small_disk) / "checkpoints" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    fill_disk(small_disk)
    result = shell("fit", "--resume", version_dir(small_disk), "--trainer.max_epochs=4")
    assert_disk_full(result, f"No space left on device: '{version_dir(small_disk)}")
    assert torch.load(last, weights_only=True)["global_step"] == steps


@pytest.mark.parametrize("filename", ["best.ckpt", "last.ckpt"])
def test_no_space_for_a_checkpoint(small_disk, shell, config, filename):
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--trainer.max_epochs=1"]
    assert shell("fit", *arguments)[0] == 0
    fill_disk(small_disk, 100_000)
    before = snapshot(small_disk)
    minutes = 0 if filename == "last.ckpt" else 100
    result = shell("fit", *arguments, f"--last_checkpoint.every_minutes={minutes}")
    assert_disk_full(result, version_dir(small_disk, 1) / "checkpoints" / filename)
    assert snapshot(small_disk) == before
    assert not version_dir(small_disk, 1).exists()


@pytest.mark.parametrize("free_bytes", [0, 40_000])
def test_no_space_for_the_student(small_disk, shell, config, free_bytes, tmp_path):
    arguments = ["--config", config, "--trainer.max_epochs=1", f"--export.output_dir={small_disk / 'student'}"]
    assert shell("fit", *arguments)[0] == 0
    fill_disk(small_disk, free_bytes)
    before = snapshot(small_disk)
    assert_disk_full(shell("fit", *arguments), f"No space left on device: '{small_disk / 'student'}")
    assert snapshot(small_disk) == before
    (small_disk / "ballast").unlink()
    assert shell("fit", "--resume", version_dir(tmp_path, 1))[0] == 0  # trains no more, but exports
    assert snapshot(small_disk).keys() == before.keys()
    assert snapshot(small_disk) != before


@pytest.mark.parametrize("free_bytes", [0, 8192])
def test_no_space_for_tokenized_data(small_disk, shell, config, free_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", small_disk)
    fill_disk(small_disk, free_bytes)
    code, message = shell("fit", "--config", config)
    assert code
    assert (
        f".arrow'; {DISK_FULL_MESSAGE}" in message or f"'{small_disk / 'lightning_kd'}'; {DISK_FULL_MESSAGE}" in message
    )
    assert not version_dir(tmp_path).exists()
    (small_disk / "ballast").unlink()
    assert shell("fit", "--config", config)[0] == 0


def test_no_space_for_logs_of_a_subprocess(small_disk, config):
    """TensorBoard writes in a thread, whose traceback is not printed."""
    fill_disk(small_disk, 8192)
    arguments = ["--config", config, f"--trainer.default_root_dir={small_disk}", "--last_checkpoint.every_minutes=100"]
    command = [sys.executable, "-m", "lightning_kd", "fit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count(DISK_FULL_MESSAGE) == 1
    assert DISK_FULL_MESSAGE in done.stderr.splitlines()[-1]
    assert not snapshot(small_disk)


@pytest.mark.parametrize("free_bytes", [0, 100_000])
def test_no_space_for_an_export(small_disk, shell, tmp_path, clinc_file, free_bytes):
    model = save_model(tiny_bert(), tmp_path / "model")
    fill_disk(small_disk, free_bytes)
    data_args = ["--data", "CLINC150DataModule", "--data.path", clinc_file]
    code, _ = shell("export", "onnx", "--model", model, "--output_dir", small_disk / "x", *data_args)
    assert "the disk is full: free space" in code
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


@pytest.fixture
def read_only(tmp_path):
    """A folder that is read-only even for root."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    try:
        for mount in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
            subprocess.run(["mount", *mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a folder on itself")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["is read-only", "is not a directory"])
def test_unwritable_path(request, shell, config, tmp_path, kind, monkeypatch):
    """The error comes before training."""
    place = request.getfixturevalue("read_only") if kind == "is read-only" else config
    for field, value, command in (
        ("trainer.default_root_dir", place, "fit"),
        ("export.output_dir", place / "student", "fit"),
        ("predictions.path", place / "a.csv", "predict"),
    ):
        code, message = shell(command, "--config", config, f"--{field}={value}")
        assert code
        assert f"error: {field}: cannot write '{value}" in message
        assert f"'{place}' {kind}" in message
        assert not list(version_dir(tmp_path).rglob("*.ckpt"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place)
    _, message = shell("fit", "--config", config, "--data.init_args.max_length=9")
    assert f"error: HF_DATASETS_CACHE: cannot write '{place}" in message
