"""Two processes over gloo equal one process."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lightning_kd import DistillationModule, QuestionAnswering, SequenceClassification
from lightning_kd.callbacks import PredictionWriter
from lightning_kd.evaluation.temperature.saved_models import probe_models
from lightning_kd.evaluation.temperature.selection import Selection
from tests.helpers import (
    ROOT,
    data,
    module,
    python_module,
    save_model,
    squad_data,
    tiny_bert,
    trainer,
    write_rows,
    write_squad,
)
from tests.training.ddp_script import EPOCHS, FAST_STUDENT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two devices")
    write_rows(folder)
    save_model(tiny_bert(layers=4, seed=1), folder / "teacher")
    write_squad(folder / "squad")
    done = python_module("tests.training.ddp_script", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def last(folder):
    return DistillationModule.load_from_checkpoint(folder / "whole" / "checkpoints" / "last.ckpt")


def test_each_epoch_trains_on_every_example(results):
    steps = len(results["row_ids"]) // EPOCHS
    for epoch in range(EPOCHS):
        batches = results["row_ids"][epoch * steps : (epoch + 1) * steps]
        assert all(len(first) == len(second) for first, second in batches)
        seen = [row_id for step in batches for part in step for row_id in part]
        assert set(seen) == set(range(71))
        assert len(seen) == 72  # both devices get equally many, so one comes twice


def test_report_covers_all_examples(folder):
    report = json.loads((folder / "whole" / "report.json").read_text())
    assert report["num_examples"] == "35 examples"
    assert [line["name"] for line in report["rows"]] == ["teacher", "student"]


def test_probe_is_that_of_one_process(folder):
    probe = json.loads((folder / "whole" / "probe.json").read_text())
    datamodule, selection = data(folder / "data_oos_plus.json"), Selection(None, 1, [1.0, 5.0, 19.0], 3, 3)
    pair = [str(folder / "teacher"), str(folder / "whole" / "student")]
    alone = asdict(
        probe_models(selection, SequenceClassification(), datamodule, "validation", pair, enable_progress_bar=False)
    )
    assert probe["num_examples"] == alone["num_examples"] == 35
    assert [sentence["text"] for sentence in probe["sentences"]] == [s["text"] for s in alone["sentences"]]
    for ours, expected in zip(probe["split_stats"], alone["split_stats"], strict=True):
        assert ours == pytest.approx(expected, abs=1e-6)
    assert (probe["accuracy"], probe["agreement"]) == (alone["accuracy"], alone["agreement"])


def test_validation_scores_are_those_of_one_process(results, folder, last):
    expected = trainer(folder).validate(last, data(folder / "data_oos_plus.json"), verbose=False)[0]
    assert results["validated"] == pytest.approx(expected, abs=1e-6)
    assert results["scores"][-1] == pytest.approx({n: expected[n] for n in results["scores"][-1]}, abs=1e-6)
    assert len(results["scores"]) == EPOCHS
    assert 0 < expected["val/accuracy"] < 1


def test_teacher_scores_are_those_of_one_process(results, folder):
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
    alone = module(student=teacher)
    expected = trainer(folder).validate(alone, data(folder / "data_oos_plus.json"), verbose=False)[0]
    assert results["teacher scores"] == pytest.approx(
        {name: expected[f"val/{name}"] for name in results["teacher scores"]}, abs=1e-6
    )


def test_processes_have_the_same_student_and_an_unchanged_teacher(results):
    assert results["teacher changed"] == [[], []]
    assert results["teacher trains"] == results["teacher in train mode"] == [False, False]
    first, second = results["student in the processes"]
    assert first == second


def test_resumed_run_ends_in_the_same_weights(results):
    assert results["resumed differs"] == []


def test_teacher_cache_is_shared(results, folder):
    cold = Counter(row_id for row_ids in results["teacher examples"]["cold"] for row_id in row_ids)
    assert set(cold) == set(range(71))
    assert all(results["teacher examples"]["cold"])
    assert cold.total() <= 71 + 35 + 2  # an example that is on both devices at once
    assert results["teacher examples"]["warm"] == [[], []]
    assert results["teacher loaded when warm"] == [False, False]
    assert results["warm differs"] == []
    assert len(list((folder / "cache").iterdir())) == 2


def test_predictions_are_complete_ordered_and_equal_to_one_process(folder, last):
    datamodule = data(folder / "data_oos_plus.json")
    trainer(folder, callbacks=[PredictionWriter("alone.csv")]).predict(last, datamodule)
    both, alone = (
        list(csv.DictReader((folder / name).read_text(encoding="utf-8").splitlines()))
        for name in ("predictions.csv", "alone.csv")
    )
    assert [row["text"] for row in both] == datamodule.texts()["text"]
    assert [row["label"] for row in both] == [row["label"] for row in alone]
    assert [float(r["score"]) for r in both] == pytest.approx([float(r["score"]) for r in alone], abs=2e-6)


def test_failing_run_leaves_earlier_runs_unchanged(tmp_path, ddp_command):
    done = python_module(*ddp_command, "--trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    logs = tmp_path / "lightning_logs"
    before = sorted(logs.rglob("*"))
    assert logs / "version_0" / "student" / "model.safetensors" in before
    guessing = save_model(tiny_bert(seed=1), tmp_path / "guessing")
    failed = python_module(*ddp_command, f"--model.teacher={guessing}", "--model.losses.soft=SoftTargetLoss")
    assert failed.returncode == 1
    assert "not better than chance" in failed.stderr
    assert sorted(logs.rglob("*")) == before


def test_sigterm_saves_and_ends_both_processes(tmp_path, ddp_command):
    command = [
        sys.executable,
        "-m",
        *map(str, ddp_command),
        "--trainer.max_epochs=9999",
        "--last_checkpoint.every_minutes=60",
    ]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **silent)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    try:
        while not last.exists() and run.poll() is None:
            time.sleep(0.05)
        before = last.stat().st_mtime_ns
        time.sleep(0.5)  # a signal during a save would not cause another one
        run.terminate()
        assert run.wait(timeout=30) == 143
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)  # both processes, if they hang
    assert last.stat().st_mtime_ns > before


def test_questions_split_across_devices(results, folder):
    reader = module(task=QuestionAnswering(), student=FAST_STUDENT)
    reader.build_student().load_state_dict(torch.load(folder / "reader.pt", weights_only=True))
    questions = squad_data(folder / "squad")
    alone = trainer(folder / "alone", callbacks=[PredictionWriter()])
    expected = alone.validate(reader, questions, verbose=False)[0]
    assert results["questions validated"] == pytest.approx(expected, abs=1e-5)
    assert 0 < expected["val/f1"] < 100
    alone.predict(reader, questions)
    files = [json.loads((path / "predictions.json").read_text()) for path in (folder, folder / "alone")]
    assert files[0] == files[1]
    assert len(files[0]) == 13
