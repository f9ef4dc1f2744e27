"""The ``cache`` subcommand, and damaged, full and read-only caches from the command line."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_kd import DistillationModule
from tests.helpers import cache_folders, fill_disk, version_dir


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def distill_args(tmp_path, config, teachers):
    """Function that returns the arguments of a run with a cache."""

    def arguments(cache=tmp_path / "cache", ignore_checks=("weak_teacher",)):
        soft = "{class_path: SoftTargetLoss, init_args: {weight: 0.5}}"
        teacher = [f"--model.teacher={teachers['classes']}", f"--model.losses.soft={soft}"]
        ignored = [f"--model.ignore_checks+={check}" for check in ignore_checks]
        return ["--config", config, *teacher, *ignored, f"--model.teacher_cache={cache}"]

    return arguments


def modified_times(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def fail_on_step(module, batch, batch_idx):
    raise AssertionError("a training step")


def test_cache_command(tmp_path, cache, distill_args, shell, teacher_calls, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(DistillationModule, "training_step", fail_on_step)
        assert shell("cache", *distill_args(), "--cache.batch_size=30") == (0, "")
    assert teacher_calls.sizes == [16, 16, 4, 30, 30, 12]
    before = modified_times(cache)
    assert len(before) == 8
    assert not (tmp_path / "lightning_logs").exists()
    caplog.clear()
    assert shell("cache", *distill_args()) == (0, "")
    assert ": 72 of 72 train examples cached" in caplog.text
    assert ": 36 of 36 validation examples cached" in caplog.text
    assert shell("fit", *distill_args())[0] == 0
    assert len(teacher_calls.batches) == 6
    assert modified_times(cache) == before
    assert (version_dir(tmp_path) / "student" / "model.safetensors").is_file()


def test_cache_command_errors(cache, config, shell, distill_args):
    assert "model.teacher_cache: " in shell("cache", "--config", config)[1]
    assert "model.teacher: " in shell("cache", "--config", config, "--model.teacher_cache=x")[1]
    assert "ckpt_path: " in shell("cache", *distill_args(), "--ckpt_path=last.ckpt")[1]
    assert "not better than chance" in shell("cache", *distill_args(ignore_checks=()))[1]
    assert not (cache_folders(cache)["train"] / "values.bin").exists()  # scored before the cache is filled


def test_cache_command_masks_the_same_tokens_as_the_run(tmp_path, shell, teachers, corpus, teacher_calls):
    arguments = [
        "--model.task=MaskedLM", f"--model.teacher={teachers['tokens']}", f"--model.student={teachers['tokens']}",
        "--model.losses.soft=SoftTargetLoss", "--model.ignore_checks+=weak_teacher",
        f"--model.teacher_cache={tmp_path / 'c'}",
        "--data=MaskedLMDataModule", f"--data.path={corpus}", "--data.dynamic_masking=false", "--data.max_length=16",
        f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert shell("cache", *arguments) == (0, "")
    teacher_calls.reset()
    assert shell("fit", *arguments, "--trainer.max_steps=2")[0] == 0
    assert teacher_calls.batches == []


def test_damaged_cache(cache, distill_args, shell, teacher_calls):
    assert shell("cache", *distill_args())[0] == 0
    folder = cache_folders(cache)["train"]
    content = bytearray((folder / "values.bin").read_bytes())
    content[30] ^= 1
    (folder / "values.bin").write_bytes(content)
    teacher_calls.reset()
    assert shell("cache", *distill_args())[0] == 0
    assert teacher_calls.sizes == [1]
    (folder / "values.bin").write_bytes(content[:-20])
    code, last = shell("fit", *distill_args())
    assert code
    assert f"teacher_cache: '{folder}' is damaged (values.bin has" in last
    assert "\n" not in last
    shutil.rmtree(folder)
    assert shell("fit", *distill_args())[0] == 0


def test_full_disk(small_disk, tmp_path, distill_args, shell):
    earlier, new = small_disk / "earlier", small_disk / "new"
    assert shell("cache", *distill_args(earlier))[0] == 0
    before = {path: path.read_bytes() for path in modified_times(earlier)}
    fill_disk(small_disk)
    for command in ("fit", "cache"):
        code, last = shell(command, *distill_args(new))
        assert code
        assert f"teacher_cache: cannot write to '{new}" in last
        assert "the disk is full" in last
        assert "\n" not in last
    assert not version_dir(tmp_path).exists()
    assert {path: path.read_bytes() for path in modified_times(earlier)} == before
    assert shell("fit", *distill_args(earlier))[0] == 0


def test_read_only_folder(small_disk, distill_args, shell, teacher_calls):
    filled, new = small_disk / "filled", small_disk / "new"
    assert shell("cache", *distill_args(filled))[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    teacher_calls.reset()
    assert shell("fit", *distill_args(filled))[0] == 0
    assert teacher_calls.batches == []
    code, last = shell("fit", *distill_args(new))
    assert code
    assert f"teacher_cache: cannot write to '{new}" in last
    assert "Read-only file system" in last
    assert "\n" not in last
