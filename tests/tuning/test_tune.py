"""``lightning-kd tune`` as one types it: real runs of a tiny student."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from lightning.pytorch import Callback

from tests.conftest import LABELS, TINY_BERT, save_network, tiny_bert

SPACE = """
alpha: {float: [0, 1], set: {model.losses.hard.init_args.weight: 1 - alpha, model.losses.soft.init_args.weight: alpha}}
optimizer: {choices: [torch.optim.AdamW, torch.optim.SGD], key: model.optimizer.class_path}
momentum: {when: {optimizer: torch.optim.SGD}, float: [0.1, 0.9], key: model.optimizer.init_args.momentum}
model.optimizer.init_args.lr: {float: [1e-3, 1e-2], log: true}
"""

FINE = "model.warmup_ratio: {float: [0, 1]}"


@pytest.fixture
def base(tmp_path, clinc_file):
    """Arguments of a study in ``tmp_path/study``: two epochs of a tiny student with a tiny teacher."""
    teacher = save_network(tiny_bert(LABELS, layers=2, seed=1), tmp_path / "teacher")
    config = {
        "seed_everything": 3,
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": str(tmp_path)},
        "model": {
            "task": "SequenceClassification",
            "teacher": teacher,
            "student": {"base": teacher, "num_hidden_layers": 1},
            "losses": {"hard": "HardLabelLoss", "soft": "SoftTargetLoss"},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            "accept": ["weak_teacher"],
        },
        "data": {
            "class_path": "CLINC150DataModule",
            "init_args": {"path": str(clinc_file), "tokenizer": str(TINY_BERT), "batch_size": 8, "max_length": 32},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    return ["tune", "--config", tmp_path / "run.yaml", "--space", tmp_path / "space.yaml", "--folder", tmp_path / "study"]  # fmt: skip  # noqa: E501


def rows(tmp_path):
    with (tmp_path / "study" / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load(tmp_path):
    return optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'study' / 'study.db'}")


def start(args, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "lightning_kd", *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)  # fmt: skip  # noqa: E501


def test_study(base, shell, tmp_path):
    code, last = shell(*base, "--trials", 6, "--pruner", "none")
    assert code == 0, last
    table = rows(tmp_path)
    assert [row["state"] for row in table] == ["complete"] * 6
    for row in table:
        assert bool(row["momentum"]) == (row["optimizer"] == "torch.optim.SGD")
        assert row["seed 3"] == row["value"]
        assert float(row["seconds"]) > 0
        config = yaml.safe_load(
            (tmp_path / "study" / "trials" / f"{int(row['number']):05}" / "config.yaml").read_text()
        )
        losses = config["model"]["losses"]
        assert losses["soft"]["init_args"]["weight"] == pytest.approx(float(row["alpha"]))
        assert losses["hard"]["init_args"]["weight"] == pytest.approx(1 - float(row["alpha"]))
        assert config["model"]["optimizer"]["class_path"] == row["optimizer"]
    made = {path.name for path in (tmp_path / "study").iterdir()}
    assert made >= {"best.yaml", "trials.csv", "history.png", "teacher_cache"}
    best = max(table, key=lambda row: float(row["value"]))
    kept = [path.parent.name for path in (tmp_path / "study").glob("trials/*/student")]
    assert len(kept) == 1
    assert float(table[int(kept[0])]["value"]) == float(best["value"])
    assert not list((tmp_path / "study").glob("trials/**/*.ckpt"))

    # the best config is one that fit takes, and gives what the trial gave
    code, last = shell("fit", "--config", tmp_path / "study" / "best.yaml", "--trainer.enable_progress_bar=false")
    assert code == 0, last
    run = tmp_path / "lightning_logs" / "version_0"
    assert (run / "student" / "model.safetensors").read_bytes() == (
        tmp_path / "study" / "trials" / kept[0] / "student" / "model.safetensors"
    ).read_bytes()

    # the study goes on where it ended, and another cannot have its place
    assert shell(*base, "--trials", 7)[0] == 0
    assert len(rows(tmp_path)) == 7
    code, _ = shell(*base, "--trials", 8, "--trainer.max_epochs=3")
    assert "in which config.trainer.max_epochs is 2, here it is 3" in code
    assert len(load(tmp_path).trials) == 7


def test_two_seeds(base, shell, tmp_path):
    assert shell(*base, "--trials", 2, "--seeds", 2, "--keep", "none")[0] == 0
    for row in rows(tmp_path):
        one, other = float(row["seed 3"]), float(row["seed 4"])
        assert float(row["value"]) == pytest.approx((one + other) / 2)
        assert float(row["spread"]) == pytest.approx(abs(one - other) / 2**0.5)
    assert not list((tmp_path / "study").glob("trials/**/student"))


def test_failing_trial_is_recorded_and_the_study_goes_on(base, shell, tmp_path):
    # a learning rate at which the loss becomes NaN
    (tmp_path / "space.yaml").write_text("lr: {choices: [1e-3, 1e+30], key: model.optimizer.init_args.lr}")
    code, last = shell(*base, "--trials", 6, "--model.optimizer.class_path=torch.optim.SGD")
    assert code == 0, last
    table = rows(tmp_path)
    assert len(table) == 6
    assert {row["state"] for row in table if row["lr"] == "0.001"} <= {"complete", "pruned"}
    failed = [row for row in table if row["state"] == "fail"]
    assert failed
    assert all("is not finite" in row["reason"] or "nan" in row["reason"].lower() for row in failed), failed


def test_trials_that_all_fail_stop_the_study(base, shell, tmp_path):
    (tmp_path / "space.yaml").write_text("model.warmup_ratio: {float: [0, 1]}")
    code, _ = shell(*base, "--trials", 50, "--trainer.callbacks+=tests.tuning.test_tune.Fails")
    assert "3 trials failed in a row, the last one: RuntimeError: out of something" in code
    assert shell(*base, "--trials", 1)[0] == 0  # the name is free again
    assert len(rows(tmp_path)) == 1


def test_bad_trials_are_pruned(base, shell, tmp_path):
    (tmp_path / "space.yaml").write_text("lr: {choices: [1e-2, 1e-9], key: model.optimizer.init_args.lr}")
    assert shell(*base, "--trials", 14, "--trainer.max_epochs=4", "--keep", "none")[0] == 0
    pruned = [row for row in rows(tmp_path) if row["state"] == "pruned"]
    assert pruned
    assert {row["lr"] for row in pruned} == {"1e-09"}


def test_killed_trial_is_run_again(base, shell, tmp_path):
    process = start([*base, "--trials", 3, "--trainer.max_epochs=400", "--pruner", "none"])
    log = None
    while log is None:  # until it trains
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
        log = next((tmp_path / "study" / "trials").glob("00000/checkpoints/best.ckpt"), None)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    study = load(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    before = study.trials[0].params
    # the same command, but for a length that lets the test end: the study is told it has always been so
    about = study.user_attrs["about"].replace('"max_epochs": 400', '"max_epochs": 1')
    study.set_user_attr("about", about)
    code, last = shell(*base, "--trials", 3, "--trainer.max_epochs=1", "--pruner", "none")
    assert code == 0, last
    states = [trial.state.name for trial in load(tmp_path).trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert load(tmp_path).trials[1].params == before
    assert [row["number"] for row in rows(tmp_path)] == ["1", "2", "3"]


def test_two_processes_work_on_one_study(base, tmp_path):
    both = [start([*base, "--trials", 7, "--pruner", "none"]) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    table = rows(tmp_path)
    assert [row["state"] for row in table] == ["complete"] * 7
    assert len({row["alpha"] for row in table}) == 7
    assert len({trial.user_attrs["process"] for trial in load(tmp_path).trials}) == 2


def test_interrupt_ends_in_order_and_is_continued(base, tmp_path):
    process = start([*base, "--trials", 2, "--trainer.max_epochs=400", "--pruner", "none"])
    while not list((tmp_path / "study" / "trials").glob("00000/checkpoints/best.ckpt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert [trial.state.name for trial in load(tmp_path).trials] == ["FAIL", "WAITING"]
    assert load(tmp_path).trials[1].system_attrs["fixed_params"] == load(tmp_path).trials[0].params


@pytest.mark.parametrize(
    ("space", "args", "says"),
    [
        ("model.losses.soft.init_args.temprature: {float: [1, 2]}", [], "temprature' = 1: Parser key \"model.losses\""),
        ("t: {float: [0, 2], key: model.losses.soft.init_args.temperature}", [], "parameter 't' = 0: SoftTargetLoss"),
        ("modle.x: {float: [1, 2]}", [], "'modle.x' = 1"),
        (FINE, ["--metric", "val/nothing", "--mode", "max"], "is not logged; there are val/accuracy"),
        (FINE, ["--metric", "val/f1_macro"], "--mode: whether less or more of 'val/f1_macro'"),
        (FINE, ["--trainer.devices=2"], "a trial trains on one device, these are 2"),
        (FINE, ["--trials", "0"], "--trials: must be >= 1, got 0"),
        (FINE, ["--storage", "study.db"], "is neither a URL such as"),
        (FINE, ["--storage", "nosuch://u:secret@host/x"], "cannot be opened"),
        (FINE, ["--seed_everything=true"], "trials are compared with the same seed"),
    ],
)  # fmt: skip
def test_refused_before_the_first_trial(base, shell, tmp_path, space, args, says):
    (tmp_path / "space.yaml").write_text(space)
    code, _ = shell(*base, "--trials", 2, *args)
    assert says in code
    assert "secret" not in code
    assert not list((tmp_path / "study").glob("trials/*/student"))


def test_journal_file(base, shell, tmp_path):
    assert shell(*base, "--trials", 1, "--storage", tmp_path / "study.log")[0] == 0
    assert (tmp_path / "study.log").is_file()
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_missing_package(base, shell, monkeypatch, package):
    from lightning_kd.tuning import storage

    monkeypatch.setattr(storage, "find_spec", lambda name: None if name == package else object())
    assert f"tune needs {package}, not installed; run pip install 'lightning-kd[tune]'" in shell(*base)[0]


def test_example_space(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    data = Path("lightning_kd/data/quickstart/data_oos_plus.json")
    names = sorted({row[1] for split in yaml.safe_load(data.read_text()).values() for row in split})
    teacher = save_network(tiny_bert(names, layers=2), tmp_path / "teacher")
    shared = ["--trials", 2, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", f"--model.teacher={teacher}"]
    shared += ["--model.accept+=weak_teacher", f"--data.init_args.path={data}", "--trainer.accelerator=cpu"]
    for folder, config in (("quickstart", "distil"), ("clinc150", "distil_fast")):
        where = ["--config", f"configs/{folder}/{config}.yaml", "--space", f"configs/{folder}/tune/space.yaml"]
        more = [] if folder == "quickstart" else [f"--model.student.base={teacher}", "--trainer.precision=32-true"]
        more += [f"--model.teacher_cache={tmp_path / 'cache'}"] if more else []
        code, last = shell("tune", *where, "--folder", tmp_path / folder, *shared, *more)
        assert code == 0, last
        assert (tmp_path / folder / "best.yaml").is_file()
        shutil.rmtree(tmp_path / folder)


class Fails(Callback):
    """Stands for what is wrong with every run."""

    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("out of something")
