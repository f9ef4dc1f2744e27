"""``lightning-kd fit``, ``test`` and ``predict``.

Most tests run in this process, because starting Python and importing takes longer than the runs.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_kd import DistillationModule
from lightning_kd.callbacks import onnx_export
from lightning_kd.cli.fit import run
from tests.helpers import (
    LABELS,
    TINY_BERT,
    assert_same_weights,
    clinc_rows,
    data,
    python_module,
    save_model,
    tiny_bert,
    trainer,
    version_dir,
)  # fmt: skip

SOFT = "--model.losses.soft=SoftTargetLoss"


def start(*arguments):
    """Start ``lightning-kd`` as a process."""
    command = [sys.executable, "-m", "lightning_kd", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def global_step(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.exists() else 0


def test_fit_writes_a_student_and_a_config_that_repeats_the_run(tmp_path, config, shell):
    from transformers import pipeline

    assert shell("fit", "--config", config) == (0, "")
    run_dir = version_dir(tmp_path)
    assert {p.name for p in (run_dir / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(run_dir.glob("events.out.tfevents.*"))
    predict = pipeline("text-classification", model=str(run_dir / "student"))
    assert predict("hello desk good morning to you")[0]["label"] in LABELS
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["seed_everything"] == 7
    assert saved["data"]["init_args"]["tokenizer"] == str(TINY_BERT)

    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert shell("fit", "--config", run_dir / "config.yaml")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    first, second = (version_dir(tmp_path, n) / "student" / "model.safetensors" for n in (0, 1))
    assert first.read_bytes() == second.read_bytes()


def test_fit_teacher_distill_test_predict(tmp_path, config, shell, clinc_file):
    assert shell("fit", "--config", config, f"--export.output_dir={tmp_path / 'teacher'}")[0] == 0
    soft = "{class_path: SoftTargetLoss, init_args: {weight: 0.5, temperature: 2}}"
    distill = ["--config", config, f"--model.teacher={tmp_path / 'teacher'}", f"--model.losses.soft={soft}"]
    assert shell("fit", *distill, "--model.ignore_checks+=weak_teacher")[0] == 0
    run_dir = version_dir(tmp_path, 1)
    card = (run_dir / "student" / "README.md").read_text(encoding="utf-8")
    assert "SoftTargetLoss | 0.5 | temperature 2" in card
    assert str(clinc_file) in card
    best = run_dir / "checkpoints" / "best.ckpt"
    assert shell("test", "--config", config, f"--ckpt_path={best}")[0] == 0
    texts = tmp_path / "new texts.txt"
    texts.write_text("hello you\n\nwhat is the leak of france\n", encoding="utf-8")
    args = [f"--ckpt_path={best}", f"--data.init_args.predict_path={texts}", f"--predictions.path={tmp_path / 'p.csv'}"]
    assert shell("predict", "--config", run_dir / "config.yaml", *args)[0] == 0
    with (tmp_path / "p.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text"] for row in rows] == ["hello you", "what is the leak of france"]
    assert all(row["label"] in LABELS and 1 / 3 <= float(row["score"]) <= 1 for row in rows)


def test_hub_models_are_pinned(tmp_path, config, shell, add_to_hub_cache):
    """config.yaml and model card name the commits, also if the run is resumed and the branch has moved."""
    commits = {"student": "a" * 40, "teacher": "b" * 40}
    for seed, (name, commit) in enumerate(commits.items()):
        folder = save_model(tiny_bert(seed=seed), tmp_path / name)
        add_to_hub_cache(folder, f"some/{name}", commit)
    args = ["--model.student=some/student", "--model.teacher=some/teacher", "--model.ignore_checks=[weak_teacher]"]
    soft = "--model.losses.soft={class_path: SoftTargetLoss, init_args: {weight: 0.5, temperature: 2}}"
    assert shell("fit", "--config", config, *args, soft)[0] == 0
    run_dir = version_dir(tmp_path)
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["model"]["student"] == {"pretrained": "some/student", "revision": "a" * 40}
    assert saved["model"]["teacher"] == {"pretrained": "some/teacher", "revision": "b" * 40}
    assert saved["data"]["init_args"]["tokenizer_revision"] == "a" * 40
    for name in commits:
        add_to_hub_cache(folder, f"some/{name}", "c" * 40)
    assert shell("fit", "--resume", run_dir, "--trainer.max_epochs=3")[0] == 0
    card = (run_dir / "student" / "README.md").read_text(encoding="utf-8")
    assert f"- Student: loaded from `some/student` at commit `{'a' * 40}`" in card
    assert f"- Teacher: loaded from `some/teacher` at commit `{'b' * 40}`" in card


def test_checkpoint_suffices_to_test_and_predict(tmp_path, config, shell, clinc_file):
    """The labels are in the teacher's order. The teacher is deleted and, for ``predict``, the data set as well."""
    teacher = save_model(tiny_bert(LABELS[::-1], seed=1), tmp_path / "teacher")
    arguments = ["--config", config, f"--model.teacher={teacher}", SOFT, "--model.ignore_checks+=weak_teacher"]
    assert shell("fit", *arguments, "--trainer.max_epochs=5")[0] == 0
    shutil.rmtree(teacher)
    best = version_dir(tmp_path) / "checkpoints" / "best.ckpt"
    fitted = DistillationModule.load_from_checkpoint(best)
    assert fitted.label_names == LABELS[::-1]
    expected = trainer(tmp_path).test(fitted, data(clinc_file, max_length=64), verbose=False)[0]
    metrics = run(["test", "--config", str(config), f"--ckpt_path={best}"]).trainer.callback_metrics
    assert {name: float(score) for name, score in metrics.items()} == pytest.approx(expected)
    texts = tmp_path / "texts.txt"
    texts.write_text("hello you\n", encoding="utf-8")
    elsewhere = [f"--ckpt_path={best}", "--data.init_args.path=gone", f"--data.init_args.predict_path={texts}"]
    assert shell("predict", "--config", config, *elsewhere)[0] == 0
    assert (version_dir(tmp_path, 2) / "predictions.csv").read_text(encoding="utf-8").startswith("text,label,score\n")


def test_resume_after_sigkill(tmp_path, config, shell):
    """A run killed twice ends with the same weights as a run without interruption."""
    long = ["--config", config, "--trainer.max_epochs=40", "--last_checkpoint.every_minutes=0"]
    assert shell("fit", *long)[0] == 0
    expected = torch.load(version_dir(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    run_dir = version_dir(tmp_path, 1)
    last = run_dir / "checkpoints" / "last.ckpt"
    steps = 0
    for arguments in (long, ["--resume", run_dir]):
        process = start("fit", *arguments)
        while process.poll() is None and global_step(last) < steps + 30:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps = global_step(last)
    assert 0 < steps < expected["global_step"]
    assert not (run_dir / "student").exists()
    assert shell("fit", "--resume", run_dir)[0] == 0
    resumed = torch.load(last, weights_only=True)
    assert resumed["global_step"] == expected["global_step"]
    assert_same_weights(resumed["state_dict"], expected["state_dict"])
    assert (run_dir / "student" / "model.safetensors").is_file()
    assert not version_dir(tmp_path, 2).exists()


def test_a_resumed_run_keeps_its_overrides(tmp_path, config, shell, caplog):
    caplog.set_level("INFO")
    run_dir = version_dir(tmp_path)
    assert shell("fit", "--config", config)[0] == 0
    first = (run_dir / "config.yaml").read_text()
    refused = shell("fit", "--resume", run_dir, "--model.student.num_hidden_layers=2", "--trainer.max_epochs=3")[0]
    assert "error: student.num_hidden_layers: 1 in the checkpoint, 2 in this call; " in refused
    assert (run_dir / "config.yaml").read_text() == first
    longer = "--trainer.max_epochs=3", "--model.optimizer.lr=0.02", "--model.ignore_checks+=changed_data"
    assert shell("fit", "--resume", run_dir, *longer)[0] == 0
    assert "optimizer.lr: 0.01 → 0.02 from step 18 on" in caplog.messages
    assert (run_dir / "config.1.yaml").read_text() == first
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["trainer"]["max_epochs"] == 3
    assert saved["model"]["student"]["config"] == str(TINY_BERT)
    assert saved["model"]["ignore_checks"] is saved["ckpt_path"] is None
    assert shell("fit", "--resume", run_dir)[0] == 0
    assert sorted(file.name for file in run_dir.glob("config*")) == ["config.1.yaml", "config.yaml"]
    assert torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 27


@pytest.mark.parametrize("logger", [["CSVLogger", "--trainer.logger.save_dir=csv"], ["false"]])
def test_a_resumed_run_with_another_logger(tmp_path, config, shell, logger, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = version_dir(tmp_path)
    assert shell("fit", "--config", config)[0] == 0
    assert shell("fit", "--resume", run_dir, "--trainer.max_epochs=3", "--trainer.logger", *logger)[0] == 0
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit", "--resume", "nowhere"], ["nowhere'"]),
        (["fit", "--resume", "."], ["config.yaml"]),
        (["fit", "--resume=run"], ["run'", "last.ckpt"]),
        (["fit", "--resume"], ["requires a run folder"]),
        (["test", "--resume", "run"], ["test"]),
    ],
)
def test_runs_that_cannot_be_resumed(shell, arguments, named, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    _, last = shell(*arguments)
    assert all(part in last for part in ["--resume: ", *named])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--model.lossess.hard=HardLabelLoss", "model.lossess"),
        ("--model.losses.hard.init_args.weigth=1", "weigth"),
        ("--model.warm_up=1", "model.warm_up"),
        ("--data.init_args.bach_size=1", "bach_size"),
        ("--trainer.max_epocs=1", "max_epocs"),
        ("--model.losses.hard.class_path=HardLabelLos", "HardLabelLos"),
        ("--model.ignore_checks+=anything", "anything"),
    ],
)
def test_misspelled_keys_are_named(shell, config, override, named):
    code, last = shell("fit", "--config", config, override)
    assert code == 2
    assert named in last[last.index("error:") :]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--model.student=no/body", f"--data.init_args.tokenizer={TINY_BERT}"], "student 'no/body' is neither"),
        (["--model.student=nobody/nothing"], "data.tokenizer 'nobody/nothing' is neither"),
        (["--data.init_args.path=no/where"], "data.path: 'no/where' is neither a local file or folder"),
        (["--data.init_args.batch_size=0"], "data.batch_size: must be >= 1, got 0"),
        ([SOFT], "losses.soft: needs a teacher"),
        (["--model.losses.hard.init_args.label_smoothing=1"], "label_smoothing must be in [0, 1), got 1.0"),
        (["--model.lr_scheduler=reduce_lr_on_plateau"], "lr_scheduler: unknown schedule 'reduce_lr_on_plateau'"),
        (["--model.warmup_ratio=6"], "warmup_ratio: must be in [0, 1], got 6"),
        ([SOFT, "--model.teacher=no/body"], "teacher 'no/body' is neither"),
        ([SOFT, "--model.teacher=[]"], "teacher: the list is empty"),
        (["--last_checkpoint.every_minutes=-3"], "last_checkpoint.every_minutes: must be >= 0"),
        (["--ckpt_path=nothing.ckpt"], "nothing.ckpt"),
        (["--trainer.max_epochs=-5"], "max_epochs"),  # while the trainer is built
    ],
)  # fmt: skip
def test_bad_input_is_a_one_line_error_and_leaves_no_folder(tmp_path, shell, config, overrides, message):
    before = sorted(tmp_path.iterdir())
    root = f"--trainer.default_root_dir={tmp_path / 'new' / 'runs'}"
    code, last = shell("fit", "--config", config, root, *overrides)
    assert code
    assert message in last
    assert "\n" not in last
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed_everything: 1\nseed_everything: 2",
            "'seed_everything' is given twice, the second time in line 2; remove one",
        ),
        (
            "model:\n  losses: {hard: {}, soft: {}, hard: {}}",
            "'hard' is given twice, the second time in line 2; remove one",
        ),
    ],
)
def test_key_given_twice(tmp_path, shell, config, text, message):
    (tmp_path / "more.yaml").write_text(text, encoding="utf-8")
    code, last = shell("fit", "--config", config, "--config", tmp_path / "more.yaml")
    assert code == 2
    assert message in last


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({**clinc_rows(), "val": [], "oos_val": []}), "the validation split of"),
        (json.dumps({**clinc_rows(), "train": [["  ", "greet"]]}), "(train), row 1: no text in column 'text'"),
        (json.dumps({**clinc_rows(), "train": [["hello"]]}), "row 1: expected [text, intent]"),
        ('{"train": [\n  ["a" "b"]]}', "line 2, column 8: not JSON"),
    ],
    ids=["empty split", "no text", "no pair", "broken"],
)
def test_bad_data_files(tmp_path, shell, config, text, message):
    file = tmp_path / "bad.json"
    file.write_text(text, encoding="utf-8")
    assert message in shell("fit", "--config", config, f"--data.init_args.path={file}")[1]


def test_chance_level_teacher_stops_the_run(tmp_path, shell, config):
    teacher = save_model(tiny_bert(seed=1), tmp_path / "guessing")
    code, last = shell("fit", "--config", config, f"--model.teacher={teacher}", SOFT)
    assert code
    assert "not better than chance" in last
    assert "--model.ignore_checks+=weak_teacher" in last
    assert not version_dir(tmp_path).exists()


def test_debug_variable_shows_the_traceback(shell, config, monkeypatch):
    monkeypatch.setenv("LIGHTNING_KD_DEBUG", "1")
    with pytest.raises(ValueError, match="batch_size"):
        shell("fit", "--config", config, "--data.init_args.batch_size=0")


def test_one_line_error_of_a_subprocess(config):
    done = python_module("lightning_kd", "fit", "--config", config, "--data.init_args.path=no/where")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("lightning-kd: error: data.path: 'no/where'")


def test_student_is_written_before_another_export_fails(tmp_path, shell, config, monkeypatch):
    monkeypatch.setattr(onnx_export, "MAX_LOGIT_DIFFERENCE", -1.0)
    code, _ = shell("fit", "--config", config, "--trainer.callbacks=ONNXExport", "--trainer.max_epochs=1")
    assert "the graph differs from the student" in code
    assert (version_dir(tmp_path) / "student" / "model.safetensors").is_file()
    assert not (version_dir(tmp_path) / "onnx").exists()


@pytest.mark.parametrize("arguments", [[], ["--trainer.callbacks+=LearningRateMonitor"], ["--model.lr_scheduler=null"]])
def test_learning_rate_is_logged_once(tmp_path, config, shell, arguments):
    step = ["--trainer.log_every_n_steps=1", "--trainer.max_epochs=1"]
    assert shell("fit", "--config", config, *step, *arguments) == (0, "")
    events = EventAccumulator(str(version_dir(tmp_path))).Reload()
    (steps,) = [[e.step for e in events.Scalars(t)] for t in events.Tags()["scalars"] if t == "lr-AdamW/pg1"]
    assert steps == sorted(set(steps))
    assert len(steps) == 9


def test_run_without_a_logger(tmp_path, config, shell):
    assert shell("fit", "--config", config, "--trainer.logger=false", "--trainer.max_epochs=1") == (0, "")
    assert (tmp_path / "student" / "model.safetensors").is_file()
