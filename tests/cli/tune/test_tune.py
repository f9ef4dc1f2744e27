"""``lightning-kd tune`` as one types it: real runs of a tiny student."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import torch
import yaml
from lightning.pytorch import Callback
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from lightning_kd import DistillationModule
from lightning_kd.cli.tune import study as tune_study
from lightning_kd.export import requirements
from tests.helpers import QUICKSTART, ROOT, save_model, tiny_bert, version_dir

SPACE = """
alpha: {float: [0, 1], set: {model.losses.hard.init_args.weight: 1 - alpha, model.losses.soft.init_args.weight: alpha}}
optimizer: {choices: [torch.optim.AdamW, torch.optim.SGD], key: model.optimizer.class_path}
model.optimizer.init_args.lr: {float: [1e-3, 1e-2], log: true}
"""

FINE = "model.warmup_ratio: {float: [0, 1]}"


@pytest.fixture
def folder(tmp_path):
    """The folder of the study."""
    return tmp_path / "study"


@pytest.fixture
def space(tmp_path):
    """A file with a search space in which all trials succeed."""
    file = tmp_path / "space.yaml"
    file.write_text(FINE)
    return file


@pytest.fixture
def base(tmp_path, config, space, folder):
    """Arguments of a study: two epochs of a tiny student with a tiny teacher."""
    teacher = f"--model.teacher={save_model(tiny_bert(seed=1), tmp_path / 'teacher')}"
    distill = [teacher, "--model.losses.soft=SoftTargetLoss", "--model.ignore_checks+=weak_teacher"]
    return ["tune", "--config", config, "--search_space", space, "--output_dir", folder, *distill]


@pytest.fixture
def tune(base, shell):
    """Function that runs trials."""

    def run(n_trials, *args):
        code, last = shell(*base, "--n_trials", n_trials, *args)
        assert code == 0, last

    return run


def rows(folder):
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def url(folder):
    return f"sqlite:///{folder / 'study.db'}"


def load(folder):
    return optuna.load_study(study_name=folder.name, storage=url(folder))


def new_study(folder):
    """The study that the command is going to join."""
    folder.mkdir()
    return optuna.create_study(study_name="study", storage=url(folder), direction="maximize")


def with_callback(name, **settings):
    """An argument of fit: a callback of this file."""
    return f"--trainer.callbacks+={json.dumps({'class_path': f'{__name__}.{name}', 'init_args': settings})}"


def heed_interrupts():
    """Where the tests run in the background, SIGINT is ignored, and what they start would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(args):
    command = [sys.executable, "-m", "lightning_kd", *map(str, args)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, preexec_fn=heed_interrupts, **pipes)


def test_study(base, space, shell, tune, folder, tmp_path):
    space.write_text(SPACE)
    tune(1)
    first = load(folder).trials[0].params
    other = {"torch.optim.SGD": "torch.optim.AdamW", "torch.optim.AdamW": "torch.optim.SGD"}[first["optimizer"]]
    load(folder).enqueue_trial({**first, "optimizer": other})
    tune(3)  # continues the study
    table = rows(folder)
    assert [row["state"] for row in table] == ["complete"] * 3
    assert {row["optimizer"] for row in table} == {"torch.optim.SGD", "torch.optim.AdamW"}
    for row in table:
        assert row["seed 7"] == row["value"]
        assert float(row["duration_s"]) > 0
        config = yaml.safe_load((folder / "trials" / f"{int(row['number']):05}" / "config.yaml").read_text())
        losses = config["model"]["losses"]
        assert losses["soft"]["init_args"]["weight"] == pytest.approx(float(row["alpha"]))
        assert losses["hard"]["init_args"]["weight"] == pytest.approx(1 - float(row["alpha"]))
        assert config["model"]["optimizer"]["class_path"] == row["optimizer"]
    assert {path.name for path in folder.iterdir()} >= {"best.yaml", "trials.csv", "history.png", "teacher_cache"}
    (student,) = folder.glob("trials/*/student")
    assert table[int(student.parent.name)]["value"] == max((row["value"] for row in table), key=float)
    assert not list(folder.glob("trials/**/*.ckpt"))

    # fit accepts the best config and reproduces the student
    code, last = shell("fit", "--config", folder / "best.yaml")
    assert code == 0, last
    reproduced = version_dir(tmp_path) / "student"
    assert (reproduced / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()

    # another study cannot take the folder
    code, _ = shell(*base, "--n_trials", 8, "--trainer.max_epochs=3")
    assert "in which config.trainer.max_epochs is 2, here it is 3" in code
    assert len(load(folder).trials) == 3


def test_metric_selects_the_best_weights_in_the_trial_and_in_the_best_config(space, tune, shell, tmp_path):
    space.write_text("lr: {choices: [2e-4, 3e-4], key: model.optimizer.init_args.lr}")
    folder = tmp_path / "my study"
    tune(1, "--output_dir", folder, "--metric", "val/hard", "--mode", "min")
    assert f"#   lightning-kd fit --config '{folder}/best.yaml'" in (folder / "best.yaml").read_text().splitlines()
    code, last = shell("fit", "--config", folder / "best.yaml")
    assert code == 0, last
    # of the epoch with the best val/hard
    run = version_dir(tmp_path)
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=False)
    scores = [own["best_model_score"] for own in saved["callbacks"].values() if own.get("monitor") == "val/hard"]
    assert [float(score) for score in scores] == [load(folder).best_trial.value]
    student = folder / "trials" / "00000" / "student" / "model.safetensors"
    assert student.read_bytes() == (run / "student" / "model.safetensors").read_bytes()


def test_two_seeds_in_a_journal_file(tune, folder, tmp_path, capsys):
    more = ["--storage", tmp_path / "study.log", "--keep_models", "none", "--trainer.callbacks+=TemperatureProbe"]
    tune(1, "--seeds", 2, *more)
    assert "1 trial: 1 complete, 0 pruned, 0 fail" in capsys.readouterr().out
    assert (tmp_path / "study.log").is_file()
    assert "TemperatureProbe" in (folder / "best.yaml").read_text()
    assert not list(folder.rglob("probe.*"))  # trials leave out the callback
    (row,) = rows(folder)
    one, other = float(row["seed 7"]), float(row["seed 8"])
    assert float(row["value"]) == pytest.approx((one + other) / 2)
    assert float(row["std"]) == pytest.approx(abs(one - other) / 2**0.5)
    assert not list(folder.glob("trials/**/student"))


def test_failing_trial_is_recorded_and_the_study_goes_on(space, tune, folder):
    # a learning rate at which the loss becomes NaN
    space.write_text("lr: {choices: [1e-3, 1e+30], key: model.optimizer.init_args.lr}")
    study = new_study(folder)
    for lr in (1e30, 1e-3):
        study.enqueue_trial({"lr": lr})
    tune(2, "--model.optimizer.class_path=torch.optim.SGD")
    table = rows(folder)
    assert [row["state"] for row in table] == ["fail", "complete"]
    assert "is not finite" in table[0]["error"] or "nan" in table[0]["error"].lower()


@pytest.mark.parametrize(
    ("trials", "says"), [(50, "3 trials failed in a row, the last with:"), (1, "no trial completed, so there is no")]
)
def test_trials_that_all_fail_end_with_an_error(base, shell, folder, trials, says):
    code, _ = shell(*base, "--n_trials", trials, with_callback("Fails"))
    assert says in code
    assert "RuntimeError: out of something" in code
    assert optuna.get_all_study_names(url(folder)) == []  # the name is free again


@pytest.mark.parametrize(("others", "state"), [(1.1, "PRUNED"), (0.0, "COMPLETE")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_trial_worse_than_the_median_is_pruned(tune, folder, others, state, seeds):
    """After the second validation; with several seeds also after the first seed, by others' score with the same."""
    study = new_study(folder)
    validations = dict.fromkeys((1, 2, 3), others) if seeds == 1 else {}
    for place in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                value=others,
                params={"model.warmup_ratio": place / 10},
                distributions={"model.warmup_ratio": optuna.distributions.FloatDistribution(0, 1)},
                intermediate_values=validations,
                user_attrs={"scores": {str(seed): others for seed in (7, 8)[:seeds]}},
            )
        )
    epochs = 3 if seeds == 1 else 1
    tune(6, "--seeds", seeds, "--keep_models", "none", f"--trainer.max_epochs={epochs}")
    trial = load(folder).trials[5]
    assert trial.state.name == state
    assert trial.last_step == (2 if state == "PRUNED" and seeds == 1 else epochs)
    assert len(trial.user_attrs.get("scores", {})) == (seeds if state == "COMPLETE" else seeds - 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted_trial_is_run_again(base, tune, folder, number):
    process = start([*base, "--n_trials", 1, "--trainer.max_epochs=400", "--pruner", "none"])
    checkpoints = folder / "trials" / "00000" / "checkpoints"
    while not (checkpoints / "best.ckpt").exists():  # until it trains
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    assert process.returncode == (-number if number == signal.SIGKILL else 130), errors
    study = load(folder)
    states = ["RUNNING"] if number == signal.SIGKILL else ["FAIL", "WAITING"]
    assert [trial.state.name for trial in study.trials] == states
    before = study.trials[0].params
    # the same command with fewer epochs, so that the test ends
    definition = study.user_attrs["definition"].replace('"max_epochs": 400', '"max_epochs": 1')
    study.set_user_attr("definition", definition)
    tune(1, "--trainer.max_epochs=1", "--pruner", "none")
    assert [trial.state.name for trial in load(folder).trials] == ["FAIL", "COMPLETE"]
    assert load(folder).trials[1].params == before
    assert [row["number"] for row in rows(folder)] == ["1"]
    assert not checkpoints.parent.exists()


@pytest.mark.parametrize("queued", [True, False])
def test_trial_given_up_by_another_process_does_not_end_this_one(tune, folder, queued):
    tune(1 if queued else 2, with_callback("GivesUp", folder=str(folder), queued=queued))
    assert [trial.state.name for trial in load(folder).trials] == ["FAIL", "COMPLETE"]
    assert [row["state"] for row in rows(folder)] == (["complete"] if queued else ["fail", "complete"])


def test_two_processes_work_on_one_study(base, folder):
    args = [*base, "--n_trials", 3, "--pruner", "none", with_callback("WaitsForOther", folder=str(folder))]
    both = [start(args) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    table = rows(folder)
    assert [row["state"] for row in table] == ["complete"] * 3
    assert len({row["model.warmup_ratio"] for row in table}) == 3
    assert len({trial.user_attrs["process"] for trial in load(folder).trials}) == 2


@pytest.mark.parametrize(
    ("text", "args", "says"),
    [
        ("model.losses.soft.init_args.temprature: {float: [1, 2]}", [], 'temprature = 1: Parser key "model.losses"'),
        ("t: {float: [0, 2], key: model.losses.soft.init_args.temperature}", [], "t = 0: SoftTargetLoss"),
        ("modle.x: {float: [1, 2]}", [], "modle.x = 1"),
        (FINE, ["--mode", "min"], "--mode: applies to --metric, and val/accuracy is always max"),
        (FINE, ["--metric", "val/f1_macro"], "--mode: give the direction of 'val/f1_macro'"),
        (FINE, ["--n_trials", "0"], "--n_trials: must be >= 1, got 0"),
        (FINE, ["--seed_everything=true"], "seed_everything: all trials share the same seeds; give a number, got True"),
    ],
)
def test_refused_before_the_first_trial(base, space, shell, folder, text, args, says):
    space.write_text(text)
    code, _ = shell(*base, "--n_trials", 2, *args)
    assert says in code
    assert not (folder / "trials").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--metric", "val/nothing", "--mode", "max"], "'val/nothing' is not logged; choose from val/accuracy"),
        (["--trainer.devices=2"], "a trial trains on one device, got 2"),
    ],
)
def test_refused_before_the_first_step(base, shell, monkeypatch, args, says):
    def step(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr(DistillationModule, "training_step", step)
    assert says in shell(*base, "--n_trials", 2, *args)[0]


@pytest.mark.filterwarnings("ignore:Argument ``heartbeat")  # which is experimental; the command leaves it out
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("study.db", "is neither a URL such as"),
        ("me:secret@host/base", "'me:***@host/base' is neither a URL such as"),
        ("host=h password=secret", "'host=h password=***' is neither a URL such as"),
        ("nosuch://u:secret@host/x", "'nosuch://u:***@host/x' cannot be opened (Can't load plugin"),
        ("nosuch://u:my secret@host/x", "'nosuch://u:***@host/x' cannot be opened (Can't load plugin"),
        ("nosuch://h/x?sslpassword=secret&passfile=f", "'nosuch://h/x?sslpassword=***&passfile=f' cannot be opened"),
        ("nosuch://u:secret/base", "'nosuch://u:***/base' cannot be opened (ValueError)"),  # it would quote the "port"
        ("sqlite://u:a@secret@host", "'sqlite://u:***@host' cannot be opened (ArgumentError)"),
    ],
)
def test_storage_that_cannot_be_opened(tmp_path, given, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        tune_study.open_storage(given, tmp_path)
    assert "secret" not in "".join(traceback.format_exception(error.value))


def test_no_folder_without_a_storage(base, shell, folder):
    code, _ = shell(*base, "--storage=nosuch://host/x", "--n_trials", 1)
    assert "cannot be opened" in code
    assert not folder.exists()


def test_password_of_a_misspelled_option(base, shell):
    code, _ = shell(*base, "--storge=mysql://u:secret@host/x")
    assert "--storge=mysql://u:***@host/x" in code


@pytest.mark.filterwarnings("ignore:Argument ``heartbeat")
def test_storage_opened_for_the_first_time_by_several_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: tune_study.open_storage(None, tmp_path), range(4)))
    assert all(each.get_all_studies() == [] for each in opened)


@pytest.mark.parametrize("also", [(), ("set_trial_state_values", "get_trial")], ids=["trial", "trial and result"])
def test_database_that_fails_in_a_trial(base, shell, tune, folder, monkeypatch, also):
    def fail(*_):
        for name in also:
            monkeypatch.setattr(RDBStorage, name, fail)
        raise StorageInternalError("invalid data?") from DBAPIError("SELECT", {}, Exception("server closed\nit"))

    monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", fail)
    code, _ = shell(*base, "--n_trials", 1)
    assert "--storage: the database failed (server closed); the same command continues" in code
    monkeypatch.undo()
    assert [trial.state.name for trial in load(folder).trials] == (["RUNNING"] if also else ["FAIL", "WAITING"])
    if not also:  # else this process, which lives, has a running trial
        tune(1)
        assert [row["state"] for row in rows(folder)] == ["complete"]


@pytest.mark.parametrize("seconds", [60, -1])
def test_database_server_that_restarts(tmp_path, monkeypatch, seconds):
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'study.db'}", poolclass=NullPool)
    connect, refusals = engine.dialect.connect, [engine.dialect.loaded_dbapi.OperationalError("starting up")] * 3

    def refuse_at_first(*args, **kwargs):
        if refusals:
            raise refusals.pop()
        return connect(*args, **kwargs)

    monkeypatch.setattr(tune_study, "RECONNECT_SECONDS", seconds)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    tune_study._wait_for_restarts(engine)
    engine.connect().close()
    monkeypatch.setattr(engine.dialect, "connect", refuse_at_first)
    with nullcontext() if seconds > 0 else pytest.raises(DBAPIError, match="starting up"):
        engine.connect().close()


@pytest.mark.filterwarnings("ignore:Argument ``heartbeat")
def test_missed_heartbeat(tmp_path, monkeypatch):
    def fail(*_):
        raise StorageInternalError

    monkeypatch.setattr(RDBStorage, "record_heartbeat", fail)
    tune_study.open_storage(None, tmp_path).record_heartbeat(0)


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_missing_package(base, shell, monkeypatch, package):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == package else object())
    assert f"tune: {package} not installed; run pip install 'lightning-kd[tune]'" in shell(*base)[0]


@pytest.mark.parametrize(
    ("config", "space"),
    [
        ("quickstart/distill.yaml", "quickstart/tune/space.py:space"),
        ("clinc150/distill_fast.yaml", "clinc150/tune/space.yaml"),
    ],
)
def test_example_space(shell, tmp_path, monkeypatch, config, space):
    monkeypatch.chdir(ROOT)
    data = QUICKSTART / "data_oos_plus.json"
    names = sorted({row[1] for split in json.loads(data.read_text()).values() for row in split})
    teacher = save_model(tiny_bert(names), tmp_path / "teacher")
    where = ["--config", f"configs/{config}", "--search_space", f"configs/{space}", "--output_dir", tmp_path / "study"]
    models = [f"--model.teacher={teacher}", f"--model.student.config={teacher}", "--model.ignore_checks+=weak_teacher"]
    paths = [f"--model.teacher_cache={tmp_path / 'cache'}", f"--data.init_args.path={data}"]
    short = ["--n_trials", 1, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    code, last = shell(
        "tune", *where, *models, *paths, *short, "--trainer.accelerator=cpu", "--trainer.precision=32-true"
    )
    assert code == 0, last
    assert (tmp_path / "study" / "best.yaml").is_file()


class Fails(Callback):
    """Stands for what is wrong with every run."""

    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("out of something")


class GivesUp(Callback):
    """Stands for another process that takes this one for dead, while its first trial runs."""

    def __init__(self, folder: str, queued: bool) -> None:
        self.folder = Path(folder)
        self.queued = queued

    def on_train_start(self, trainer, pl_module):
        study = load(self.folder)
        trial = study.trials[-1]
        if trial.number == 0:
            study.tell(0, state=optuna.trial.TrialState.FAIL)
            if self.queued:
                tune_study.retry(study, trial)


class WaitsForOther(Callback):
    """Trains when two processes have begun a trial."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer, pl_module):
        study = load(self.folder)
        until = time.monotonic() + 200
        while len({trial.user_attrs.get("process") for trial in study.get_trials(deepcopy=False)} - {None}) < 2:
            assert time.monotonic() < until
            time.sleep(0.2)
