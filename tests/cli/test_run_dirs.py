"""Each run gets a new folder, which is removed if the run keeps nothing."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from lightning_kd.cli.run_dirs import create_run_dir, remove_if_empty


def test_first_free_version_is_used(tmp_path):
    root = tmp_path / "not yet there" / "lightning_logs"
    assert create_run_dir(root.parent) == root / "version_0"
    (root / "version_2").mkdir()
    (root / "version_1").touch()  # a file blocks the name, too
    assert create_run_dir(root.parent) == root / "version_3"
    assert (root / "version_3").is_dir()


def test_concurrent_runs_get_different_dirs(tmp_path):
    num_runs = 8
    barrier = Barrier(num_runs)

    def start(_):
        barrier.wait()
        return create_run_dir(tmp_path)

    with ThreadPoolExecutor(num_runs) as threads:
        folders = list(threads.map(start, range(num_runs)))
    assert {f.name for f in folders} == {f"version_{n}" for n in range(num_runs)}


def test_empty_run_dir_is_removed(tmp_path):
    other, unused = create_run_dir(tmp_path), create_run_dir(tmp_path)
    (unused / "config.yaml").write_text("{}")
    (unused / "events.out.tfevents.1").touch()
    (unused / "checkpoints").mkdir()  # empty, as after a full disk
    remove_if_empty(unused)
    assert not unused.exists()
    assert other.is_dir()
    remove_if_empty(unused)  # is missing already


@pytest.mark.parametrize(
    "kept", ["checkpoints/last.ckpt", "checkpoints/last.ckpt/.metadata", "student/model.safetensors", "predictions.csv"]
)
def test_run_dir_with_results_is_kept(tmp_path, kept):
    folder = create_run_dir(tmp_path)
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    (folder / kept).touch()
    remove_if_empty(folder)
    assert (folder / kept).is_file()


def test_logs_dir_is_never_removed(tmp_path):
    """``DistillationCLI`` passes it in all processes of a run but the first."""
    kept = create_run_dir(tmp_path) / "checkpoints"
    kept.mkdir()
    remove_if_empty(tmp_path / "lightning_logs")
    assert kept.is_dir()
