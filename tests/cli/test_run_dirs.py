"""Every run gets a folder of its own, and one that kept nothing goes away again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from lightning_kd.cli.run_dirs import discard_unused, new_run_folder, resume_arguments, run_logger


def test_numbers_count_up(tmp_path):
    folders = [new_run_folder(tmp_path / "not yet there") for _ in range(3)]
    assert [f.relative_to(tmp_path) for f in folders] == [
        Path("not yet there", "lightning_logs", f"version_{n}") for n in range(3)
    ]
    assert all(f.is_dir() for f in folders)


def test_first_free_number_is_taken(tmp_path):
    new_run_folder(tmp_path)
    (tmp_path / "lightning_logs" / "version_2").mkdir()
    (tmp_path / "lightning_logs" / "version_1").touch()  # a file is in the way as well
    assert new_run_folder(tmp_path).name == "version_3"


def test_runs_that_start_together_get_different_folders(tmp_path):
    at_once = 8
    barrier = Barrier(at_once)

    def start(_):
        barrier.wait()
        return new_run_folder(tmp_path)

    with ThreadPoolExecutor(at_once) as threads:
        folders = list(threads.map(start, range(at_once)))
    assert {f.name for f in folders} == {f"version_{n}" for n in range(at_once)}


def test_folder_of_a_run_that_kept_nothing_is_removed_and_no_other(tmp_path):
    other, unused = new_run_folder(tmp_path), new_run_folder(tmp_path)
    (unused / "config.yaml").write_text("{}")
    (unused / "events.out.tfevents.1").touch()
    (unused / "checkpoints").mkdir()  # nothing in it: the disk was full
    discard_unused(unused)
    assert not unused.exists()
    assert other.is_dir()
    discard_unused(unused)  # gone already


@pytest.mark.parametrize("kept", ["checkpoints/last.ckpt", "student/model.safetensors", "predictions.csv"])
def test_folder_with_results_stays(tmp_path, kept):
    folder = new_run_folder(tmp_path)
    (folder / kept).parent.mkdir(exist_ok=True)
    (folder / kept).touch()
    discard_unused(folder)
    assert (folder / kept).is_file()


def test_the_folder_of_all_runs_is_never_removed(tmp_path):
    """The processes of a run other than the first know no other, see ``DistillationCLI``."""
    kept = new_run_folder(tmp_path) / "checkpoints"
    kept.mkdir()
    discard_unused(tmp_path / "lightning_logs")
    assert kept.is_dir()


def test_logger_writes_into_the_run_folder(tmp_path):
    folder = new_run_folder(tmp_path)
    logger = run_logger(folder)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert Path(logger.log_dir) == folder
    assert list(folder.glob("events.out.tfevents.*"))


def test_arguments_to_resume(tmp_path):
    run = tmp_path / "my runs" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "checkpoints" / "last.ckpt").touch()
    expected = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert resume_arguments(run) == expected
