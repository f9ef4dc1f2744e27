"""``lightning-kd tune`` as one types it: real runs of a tiny student."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from lightning.pytorch import Callback

from lightning_kd import DistillationModule
from lightning_kd.cli.tune import command
from lightning_kd.cli.tune import study as tune_study
from lightning_kd.cli.tune.trial import Metric
from lightning_kd.export import requirements
from tests.helpers import LABELS, TINY_BERT, save_model, tiny_bert

SPACE = """
alpha: {float: [0, 1], set: {model.losses.hard.init_args.weight: 1 - alpha, model.losses.soft.init_args.weight: alpha}}
optimizer: {choices: [torch.optim.AdamW, torch.optim.SGD], key: model.optimizer.class_path}
model.optimizer.init_args.lr: {float: [1e-3, 1e-2], log: true}
"""

FINE = "model.warmup_ratio: {float: [0, 1]}"


@pytest.fixture
def base(tmp_path, clinc_file):
    """Arguments of a study in ``tmp_path/study``: two epochs of a tiny student with a tiny teacher."""
    teacher = save_model(tiny_bert(LABELS, layers=2, seed=1), tmp_path / "teacher")
    config = {
        "seed_everything": 3,
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": str(tmp_path)},
        "model": {
            "task": "SequenceClassification",
            "teacher": teacher,
            "student": {"config": teacher, "num_hidden_layers": 1},
            "losses": {"hard": "HardLabelLoss", "soft": "SoftTargetLoss"},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            "ignore_checks": ["weak_teacher"],
        },
        "data": {
            "class_path": "CLINC150DataModule",
            "init_args": {"path": str(clinc_file), "tokenizer": str(TINY_BERT), "batch_size": 8, "max_length": 32},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    return ["tune", "--config", tmp_path / "run.yaml", "--search_space", tmp_path / "space.yaml", "--output_dir", tmp_path / "study"]  # fmt: skip  # noqa: E501


def rows(tmp_path):
    with (tmp_path / "study" / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study' / 'study.db'}"


def load(tmp_path):
    return optuna.load_study(study_name="study", storage=url(tmp_path))


def new_study(tmp_path):
    """The study that the command is going to join."""
    (tmp_path / "study").mkdir()
    return optuna.create_study(study_name="study", storage=url(tmp_path), direction="maximize")


def with_callback(name, **settings):
    """An argument of fit: a callback of this file."""
    return f"--trainer.callbacks+={json.dumps({'class_path': f'{__name__}.{name}', 'init_args': settings})}"


def heeds_interrupts():
    """Where the tests run in the background, SIGINT is ignored, and what they start would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(args, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "lightning_kd", *map(str, args)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=heeds_interrupts, **pipes, **options)


def test_study(base, shell, tmp_path):
    assert shell(*base, "--n_trials", 1)[0] == 0
    first = load(tmp_path).trials[0].params
    other = {"torch.optim.SGD": "torch.optim.AdamW", "torch.optim.AdamW": "torch.optim.SGD"}[first["optimizer"]]
    load(tmp_path).enqueue_trial({**first, "optimizer": other})
    code, last = shell(*base, "--n_trials", 3)  # the study goes on where it ended
    assert code == 0, last
    table = rows(tmp_path)
    assert [row["state"] for row in table] == ["complete"] * 3
    assert {row["optimizer"] for row in table} == {"torch.optim.SGD", "torch.optim.AdamW"}
    for row in table:
        assert row["seed 3"] == row["value"]
        assert float(row["duration_s"]) > 0
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

    # another cannot have its place
    code, _ = shell(*base, "--n_trials", 8, "--trainer.max_epochs=3")
    assert "in which config.trainer.max_epochs is 2, here it is 3" in code
    assert len(load(tmp_path).trials) == 3


def test_another_metric_picks_the_best_students_weights_in_the_trial_and_in_the_best_config(base, shell, tmp_path):
    (tmp_path / "space.yaml").write_text("lr: {choices: [2e-4, 3e-4], key: model.optimizer.init_args.lr}")
    folder = tmp_path / "my study"
    code, last = shell(*base, "--n_trials", 1, "--output_dir", folder, "--metric", "val/hard", "--mode", "min")
    assert code == 0, last
    assert f"#   lightning-kd fit --config '{folder}/best.yaml'" in (folder / "best.yaml").read_text().splitlines()
    code, last = shell("fit", "--config", folder / "best.yaml", "--trainer.enable_progress_bar=false")
    assert code == 0, last
    # of the epoch with the best val/hard
    saved = torch.load(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt", weights_only=False)
    scores = [own["best_model_score"] for own in saved["callbacks"].values() if own.get("monitor") == "val/hard"]
    best = optuna.load_study(study_name="my study", storage=f"sqlite:///{folder / 'study.db'}").best_trial
    assert [float(score) for score in scores] == [best.value]
    made, again = folder / "trials" / "00000" / "student", tmp_path / "lightning_logs" / "version_0" / "student"
    assert (made / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_two_seeds(base, shell, tmp_path):
    more = ["--seeds", 2, "--keep_models", "none", "--trainer.callbacks+=TemperatureProbe"]
    code, last = shell(*base, "--n_trials", 1, *more)
    assert code == 0, last
    assert "TemperatureProbe" in (tmp_path / "study" / "best.yaml").read_text()
    assert not list((tmp_path / "study").rglob("probe.*"))  # for the run of the best config, as all that is only shown
    for row in rows(tmp_path):
        one, other = float(row["seed 3"]), float(row["seed 4"])
        assert float(row["value"]) == pytest.approx((one + other) / 2)
        assert float(row["std"]) == pytest.approx(abs(one - other) / 2**0.5)
    assert not list((tmp_path / "study").glob("trials/**/student"))


def test_failing_trial_is_recorded_and_the_study_goes_on(base, shell, tmp_path):
    # a learning rate at which the loss becomes NaN
    (tmp_path / "space.yaml").write_text("lr: {choices: [1e-3, 1e+30], key: model.optimizer.init_args.lr}")
    study = new_study(tmp_path)
    for lr in (1e30, 1e-3):
        study.enqueue_trial({"lr": lr})
    code, last = shell(*base, "--n_trials", 2, "--model.optimizer.class_path=torch.optim.SGD")
    assert code == 0, last
    table = rows(tmp_path)
    assert [row["state"] for row in table] == ["fail", "complete"]
    assert "is not finite" in table[0]["error"] or "nan" in table[0]["error"].lower()


@pytest.mark.parametrize(
    ("trials", "says"), [(50, "3 trials failed in a row, the last with:"), (1, "no trial completed, so there is no")]
)
def test_trials_that_all_fail_end_with_an_error(base, shell, tmp_path, trials, says):
    (tmp_path / "space.yaml").write_text(FINE)
    code, _ = shell(*base, "--n_trials", trials, with_callback("Fails"))
    assert says in code
    assert "RuntimeError: out of something" in code
    assert optuna.get_all_study_names(url(tmp_path)) == []  # the name is free again


@pytest.mark.parametrize(("others", "state"), [(1.1, "PRUNED"), (0.0, "COMPLETE")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_trial_worse_than_the_median_is_pruned(base, shell, tmp_path, others, state, seeds):
    """After the second validation; with several seeds also after the first seed, by others' score with the same."""
    (tmp_path / "space.yaml").write_text(FINE)
    study = new_study(tmp_path)
    validations = dict.fromkeys((1, 2, 3), others) if seeds == 1 else {}
    for place in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                value=others,
                params={"model.warmup_ratio": place / 10},
                distributions={"model.warmup_ratio": optuna.distributions.FloatDistribution(0, 1)},
                intermediate_values=validations,
                user_attrs={"scores": {str(seed): others for seed in (3, 4)[:seeds]}},
            )
        )
    epochs = 3 if seeds == 1 else 1
    more = ["--seeds", seeds, "--keep_models", "none", f"--trainer.max_epochs={epochs}"]
    code, last = shell(*base, "--n_trials", 6, *more)
    assert code == 0, last
    trial = load(tmp_path).trials[5]
    assert trial.state.name == state
    assert trial.last_step == (2 if state == "PRUNED" and seeds == 1 else epochs)
    assert len(trial.user_attrs.get("scores", {})) == (seeds if state == "COMPLETE" else seeds - 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted_trial_is_run_again(base, shell, tmp_path, number):
    process = start([*base, "--n_trials", 1, "--trainer.max_epochs=400", "--pruner", "none"])
    checkpoints = tmp_path / "study" / "trials" / "00000" / "checkpoints"
    while not (checkpoints / "best.ckpt").exists():  # until it trains
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    study = load(tmp_path)
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    else:
        assert process.returncode == 130, errors
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    before = study.trials[0].params
    # the same command, but for a length that lets the test end: the study is told it has always been so
    about = study.user_attrs["definition"].replace('"max_epochs": 400', '"max_epochs": 1')
    study.set_user_attr("definition", about)
    code, last = shell(*base, "--n_trials", 1, "--trainer.max_epochs=1", "--pruner", "none")
    assert code == 0, last
    assert [trial.state.name for trial in load(tmp_path).trials] == ["FAIL", "COMPLETE"]
    assert load(tmp_path).trials[1].params == before
    assert [row["number"] for row in rows(tmp_path)] == ["1"]
    assert not checkpoints.parent.exists()


@pytest.mark.parametrize("queued", [True, False])
def test_trial_given_up_by_another_process_does_not_end_this_one(base, shell, tmp_path, queued):
    (tmp_path / "space.yaml").write_text(FINE)
    trials = 1 if queued else 2
    code, last = shell(*base, "--n_trials", trials, with_callback("GivesUp", url=url(tmp_path), queued=queued))
    assert code == 0, last
    assert [trial.state.name for trial in load(tmp_path).trials] == ["FAIL", "COMPLETE"]
    assert [row["state"] for row in rows(tmp_path)] == (["complete"] if queued else ["fail", "complete"])


def test_two_processes_work_on_one_study(base, tmp_path):
    args = [*base, "--n_trials", 3, "--pruner", "none", with_callback("WaitsForOther", url=url(tmp_path))]
    both = [start(args) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    table = rows(tmp_path)
    assert [row["state"] for row in table] == ["complete"] * 3
    assert len({row["alpha"] for row in table}) == 3
    assert len({trial.user_attrs["process"] for trial in load(tmp_path).trials}) == 2


@pytest.mark.parametrize(
    ("space", "args", "says"),
    [
        ("model.losses.soft.init_args.temprature: {float: [1, 2]}", [], "temprature = 1: Parser key \"model.losses\""),
        ("t: {float: [0, 2], key: model.losses.soft.init_args.temperature}", [], "t = 0: SoftTargetLoss"),
        ("modle.x: {float: [1, 2]}", [], "modle.x = 1"),
        ("w: {int: [1, 3], set: {model.warmup_ratio: (w - 2) ** 0.5}}", [], "is not a finite real number"),
        (FINE, ["--mode", "min"], "--mode: applies to --metric, and val/accuracy is always max"),
        (FINE, ["--n_trials", "0"], "--n_trials: must be >= 1, got 0"),
    ],
)  # fmt: skip
def test_refused_before_the_first_trial(base, shell, tmp_path, space, args, says):
    (tmp_path / "space.yaml").write_text(space)
    code, _ = shell(*base, "--n_trials", 2, *args)
    assert says in code
    assert not (tmp_path / "study" / "trials").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--metric", "val/nothing", "--mode", "max"], "'val/nothing' is not logged; choose from val/accuracy"),
        (["--trainer.devices=2"], "a trial trains on one device, got 2"),
    ],
)
def test_refused_before_the_first_step(base, shell, tmp_path, monkeypatch, args, says):
    def step(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr(DistillationModule, "training_step", step)
    (tmp_path / "space.yaml").write_text(FINE)
    code, _ = shell(*base, "--n_trials", 2, *args)
    assert says in code


def test_another_metric_needs_a_mode():
    with pytest.raises(ValueError, match="--mode: give the direction of 'val/f1_macro'"):
        command._choose_metric(Namespace(metric="val/f1_macro", mode=None), Metric("val/accuracy", "max"))


def test_seed_must_be_a_number():
    assert command._consecutive_seeds(7, 2) == [7, 8]
    with pytest.raises(ValueError, match="all trials share the same seeds"):
        command._consecutive_seeds(True, 2)


@pytest.mark.parametrize(
    ("given", "says"), [("study.db", "is neither a URL such as"), ("nosuch://u:secret@host/x", "cannot be opened")]
)
def test_storage_that_cannot_be_opened(tmp_path, given, says):
    with pytest.raises(ValueError, match=f"--storage: .*{says}") as error:
        tune_study.open_storage(given, tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Argument ``heartbeat")  # which is experimental; the command leaves it out
def test_storage_opened_for_the_first_time_by_several_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: tune_study.open_storage(None, tmp_path), range(4)))
    assert all(each.get_all_studies() == [] for each in opened)


def test_journal_file(base, shell, tmp_path, capsys):
    (tmp_path / "space.yaml").write_text(FINE)
    assert shell(*base, "--n_trials", 1, "--storage", tmp_path / "study.log")[0] == 0
    assert "1 trial: 1 complete, 0 pruned, 0 fail" in capsys.readouterr().out
    assert (tmp_path / "study.log").is_file()
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_missing_package(base, shell, monkeypatch, package):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == package else object())
    assert f"tune: {package} not installed; run pip install 'lightning-kd[tune]'" in shell(*base)[0]


def test_example_space(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    data = Path("lightning_kd/data/quickstart/data_oos_plus.json")
    names = sorted({row[1] for split in yaml.safe_load(data.read_text()).values() for row in split})
    teacher = save_model(tiny_bert(names, layers=2), tmp_path / "teacher")
    shared = [
        "--n_trials",
        1,
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        f"--model.teacher={teacher}",
    ]
    shared += ["--model.ignore_checks+=weak_teacher", f"--data.init_args.path={data}", "--trainer.accelerator=cpu"]
    for folder, config, space in (
        ("quickstart", "distill", "space.py:space"),
        ("clinc150", "distill_fast", "space.yaml"),
    ):
        where = ["--config", f"configs/{folder}/{config}.yaml", "--search_space", f"configs/{folder}/tune/{space}"]
        more = [] if folder == "quickstart" else [f"--model.student.config={teacher}", "--trainer.precision=32-true"]
        more += [f"--model.teacher_cache={tmp_path / 'cache'}"] if more else []
        code, last = shell("tune", *where, "--output_dir", tmp_path / folder, *shared, *more)
        assert code == 0, last
        assert (tmp_path / folder / "best.yaml").is_file()
        shutil.rmtree(tmp_path / folder)


class Fails(Callback):
    """Stands for what is wrong with every run."""

    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("out of something")


class GivesUp(Callback):
    """Stands for another process that takes this one for dead, while its first trial runs."""

    def __init__(self, url: str, queued: bool) -> None:
        self.url = url
        self.queued = queued

    def on_train_start(self, trainer, pl_module):
        study = optuna.load_study(study_name="study", storage=self.url)
        trial = study.trials[-1]
        if trial.number == 0:
            study.tell(0, state=optuna.trial.TrialState.FAIL)
            if self.queued:
                tune_study.retry(study, trial)


class WaitsForOther(Callback):
    """Trains when two processes have begun a trial."""

    def __init__(self, url: str) -> None:
        self.url = url

    def on_train_start(self, trainer, pl_module):
        study = optuna.load_study(study_name="study", storage=self.url)
        until = time.monotonic() + 200
        while len({trial.user_attrs.get("process") for trial in study.get_trials(deepcopy=False)} - {None}) < 2:
            assert time.monotonic() < until
            time.sleep(0.2)
