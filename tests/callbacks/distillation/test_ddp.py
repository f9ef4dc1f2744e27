"""Two processes over gloo against one with the double batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.callbacks.distillation.ddp_script import RUNS, run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two devices")
    command = [sys.executable, "-m", "tests.callbacks.distillation.ddp_script", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_devices_are_one_with_the_double_batch(results, tmp_path, name):
    first, second = results[name]
    for part in ("student", "projection"):
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])
    settings = {key: value for key, value in RUNS[name].items() if key != "strategy"}
    torch.testing.assert_close(first, run(tmp_path, 8, **settings))
