"""DDP and FSDP2 on two processes over gloo equal one process with the same examples in a step."""

import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lightning_kd import DistillationModule
from lightning_kd.io.consolidation import consolidate, read_checkpoint
from lightning_kd.models.sharding import full_state_dict
from tests.helpers import python_module
from tests.training.scale_script import BUILDS, LAZY, RUNS, SGD, Runs, last_checkpoint, write_inputs

STRATEGIES = ("ddp", "fsdp2")

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")  # the second epoch has another folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs in one process, whose checkpoints the two processes resume."""
    runs = Runs(tmp_path_factory.mktemp("scale"))
    write_inputs(runs.folder)
    for build in BUILDS:
        runs.fit_epoch(build, f"one {build}")
    runs.fit_cached("cache", SGD, steps=7, batch_size=1)  # different pairs than those of a step
    for kind in STRATEGIES:
        shutil.copytree(runs.folder / "cache", runs.folder / f"{kind} cache")
    return runs


@pytest.fixture(scope="module")
def two_processes(runs):
    """Results of two processes, by strategy."""
    done = python_module("tests.training.scale_script", runs.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = (*STRATEGIES, "distributed")
    return {kind: torch.load(runs.folder / f"{kind}.pt", weights_only=True) for kind in kinds}


@pytest.fixture(scope="module")
def resumed(runs, two_processes):
    """Run the second epoch in one process, after the first in one or in two."""

    def resume(build, first):
        return full_state_dict(runs.fit_epoch(build, f"one on {first}", last_checkpoint(runs.folder / first)))

    return resume


@pytest.fixture(scope="module")
def expected(resumed):
    return {build: resumed(build, f"one {build}") for build in BUILDS}


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", RUNS["fsdp2"])
def test_weights_and_scores_equal_those_of_one_process(runs, two_processes, name):
    fitted = runs.fit(name)
    expected, scores = full_state_dict(fitted), runs.scores(name, fitted)
    for kind in STRATEGIES:
        if name in RUNS[kind]:
            assert_same(two_processes[kind][name], expected)
            assert two_processes[kind][f"{name} scores"] == pytest.approx(scores, rel=3e-6, abs=1e-6)


def test_cache_with_the_example_of_one_process_only(runs, two_processes):
    """The sharded teacher needs both processes; sparse gradients are gathered from both."""
    for kind, optimizer in (("ddp", LAZY), ("fsdp2", SGD)):
        expected = runs.fit_cached("cache of one", optimizer)
        assert_same(two_processes[kind]["cached"], full_state_dict(expected))
        assert two_processes[kind]["cached examples"] > len(expected.cached_teachers["train"].store) >= 20


def test_teacher_is_frozen_sharded_and_not_saved(runs, two_processes):
    saved_teacher = AutoModelForSequenceClassification.from_pretrained(runs.folder / "teacher").state_dict()
    for kind in STRATEGIES:
        assert all(torch.equal(weight, two_processes[kind]["teacher"][name]) for name, weight in saved_teacher.items())
        assert not two_processes[kind]["teacher trains"]
        assert two_processes[kind]["teacher is sharded"] == (kind == "fsdp2")
        saved = read_checkpoint(last_checkpoint(runs.folder / f"{kind} classifier"))["state_dict"]
        assert {name.partition(".")[0] for name in saved} == {"student", "losses"}  # with the projection
        assert saved.keys() == two_processes[kind]["classifier"].keys()


@pytest.mark.parametrize("build", BUILDS)
def test_checkpoint_continues_on_two_processes(expected, two_processes, build):
    for kind in STRATEGIES:
        assert_same(two_processes[kind][f"{build} from one"], expected[build])
    for kind in (*STRATEGIES, "distributed"):
        assert_same(two_processes[kind][f"{build} from two"], expected[build])


@pytest.mark.parametrize("build", BUILDS)
def test_checkpoint_of_two_processes_continues_on_one(resumed, expected, build):
    for kind in STRATEGIES:
        assert_same(resumed(build, f"{kind} {build}"), expected[build])


@pytest.mark.parametrize("build", BUILDS)
def test_distributed_checkpoint_is_consolidated(runs, resumed, expected, build, shell):
    folder = last_checkpoint(runs.folder / f"distributed {build}")
    assert folder.is_dir()
    file = last_checkpoint(runs.folder / f"consolidated {build}")
    file.parent.mkdir(parents=True)
    assert shell("consolidate", folder, f"--output={file}") == (0, "")
    assert_same(resumed(build, f"consolidated {build}"), expected[build])
    loaded = DistillationModule.load_from_checkpoint(file)
    weights = read_checkpoint(folder)["state_dict"]
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    code, message = shell("consolidate", folder, f"--output={file}")
    assert code != 0
    assert "output: '" in message
    with pytest.raises(ValueError, match=r"checkpoint: .*is not a sharded checkpoint"):
        consolidate(file, file.with_name("again"))


def test_best_student_is_exported(runs, two_processes):
    for kind in (*STRATEGIES, "distributed"):
        folder = runs.folder / f"{kind} classifier"
        exported = AutoModelForSequenceClassification.from_pretrained(folder / "student").state_dict()
        best = read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]
        assert all(torch.equal(weight, best[f"student.{name}"]) for name, weight in exported.items())
