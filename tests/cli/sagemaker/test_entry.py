"""A training job from its variables to its artifacts, in the folders and processes that it would have."""

import re
import signal
import sys

import pytest
import yaml
from transformers import pipeline

from lightning_kd.cli.sagemaker.__main__ import main
from lightning_kd.cli.sagemaker.job import Job
from tests.cli.sagemaker.host import wait_for_steps
from tests.helpers import LABELS, assert_same_weights, save_model, tiny_bert

LONG = {"trainer.max_epochs": 8, "last_checkpoint.every_minutes": 0}


@pytest.fixture
def entry(host, monkeypatch):
    """Run the entry in this process; returns its exit code and the failure that the service would show."""

    def run(hyperparameters=None, host=host, **changes):
        variables = {
            **host.variables(**(hyperparameters or {})),
            "LIGHTNING_KD_CHECKPOINT_DIR": str(host.root / "checkpoints"),
        }
        for name, value in {**variables, **changes}.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        monkeypatch.chdir(host.root / "code")
        monkeypatch.setattr(sys, "argv", ["train.py"])
        try:
            main()
        except SystemExit as stop:
            return stop.code, host.failure()
        return 0, host.failure()

    return run


def test_distils_from_a_channel_with_hyperparameters(host):
    save_model(tiny_bert(layers=2, seed=1), host.channel("teacher"))
    hyperparameters = {
        "model.teacher": "${SM_CHANNEL_TEACHER}",
        "model.losses.soft": "SoftTargetLoss",
        "model.losses.soft.init_args.temperature": 9,
        "model.ignore_checks+": "weak_teacher",
        "data__init_args__batch_size": 4,  # as launchers need it whose scripts break at dots
    }
    assert host.run(hyperparameters) == 0, host.log()[-2000:]
    assert host.failure() is None
    predict = pipeline("text-classification", model=str(host.root / "model"))
    assert predict("hello desk good morning to you")[0]["label"] in LABELS
    assert {path.name for path in (host.root / "model").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    config = yaml.safe_load((host.root / "output" / "data" / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["losses"]["soft"]["init_args"]["temperature"] == 9
    assert config["model"]["teacher"] == str(host.root / "input/data/teacher")
    assert config["data"]["init_args"]["path"] == str(host.root / "input/data/training")
    assert config["data"]["init_args"]["batch_size"] == 4
    assert list((host.root / "output" / "data").glob("events.out.tfevents.*"))
    lines = [line for line in host.log().splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == ["step 18, epoch 0", "step 36, epoch 1"]
    for found in Job("arn:aws:iam::123456789012:role/r", "i", "ml.m5.large", "s3://b").create_request(
        "name", "s3://b/c", ["val/accuracy", "train/loss"]
    )["AlgorithmSpecification"]["MetricDefinitions"]:
        assert all(0 <= float(re.search(found["Regex"], line)[1]) < 10 for line in lines)


def test_interrupted_twice_ends_in_the_same_weights(host, make_host, entry, capsys):
    """By SIGTERM, and by SIGKILL, which is what a script gets where SIGTERM is not handed down."""
    whole = make_host("whole")
    assert entry(LONG, whole) == (0, None)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before = host.steps()
        process = host.start(LONG)
        wait_for_steps(host, before + 8, process)
        process.send_signal(number)
        assert process.wait(timeout=600) == code
        assert before < host.steps() < whole.steps()
        assert host.failure() is None
        assert not list((host.root / "model").iterdir())
        host.renew()
    assert entry(LONG) == (0, None)
    assert host.log().count("Resuming from") == 1
    assert "Resuming from" in capsys.readouterr().out
    assert host.steps() == whole.steps()
    assert_same_weights(host.weights(), whole.weights())
    student = "model/model.safetensors"
    assert (host.root / student).read_bytes() == (whole.root / student).read_bytes()
    assert len(list((host.root / "output/data").glob("events.out.tfevents.*"))) == 3  # the logs of all three attempts


def test_interrupted_after_training_writes_the_model_again(host, entry):
    assert entry() == (0, None)
    first = (host.root / "model" / "model.safetensors").read_bytes()
    host.renew()
    assert entry() == (0, None)
    assert (host.root / "model" / "model.safetensors").read_bytes() == first


def test_config_in_a_channel_whose_settings_for_this_machine_give_way_to_the_job(host, entry):
    """Number of machines and place of the student; the rest of the file holds."""
    (host.root / "code" / "config.yaml").rename(host.channel("config") / "run.yaml")
    assert entry({"config": "run.yaml", "trainer.num_nodes": 4, "export.output_dir": "/no/where"}) == (0, None)
    assert (host.root / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("hyperparameters", "changes", "message"),
    [
        ({}, {"SM_MODEL_DIR": None}, "SM_MODEL_DIR: not set"),
        ({}, {"SM_HOSTS": "algo-1"}, "SM_HOSTS: expected a JSON list, got 'algo-1'"),
        ({}, {"SM_HPS": "[]"}, "SM_HPS: expected a JSON dict, got '[]'"),
        ({}, {"SM_CURRENT_HOST": "algo-7"}, "SM_CURRENT_HOST: 'algo-7' is not in SM_HOSTS, ['algo-1']"),
        ({}, {"SM_CHANNEL_TRAINING": None}, "config.yaml: ${SM_CHANNEL_TRAINING} is not set, the channels of this job"),
        ({"model.teacher": "${SM_CHANNEL_X}"}, {}, "hyperparameter model.teacher: ${SM_CHANNEL_X} is not set"),
        ({"config": "gone.yaml"}, {}, "hyperparameter config: no 'gone.yaml' in "),
        ({"model.warm_up": 1}, {}, "model.warm_up"),
        ({"model.losses.hard.init_args.weigth": 1}, {}, "'weigth' is not accepted"),
        ({"data.init_args.path": "no/where"}, {}, "data.path: 'no/where' is neither a local file or folder"),
        ({"model.teacher": "${SM_CHANNEL_TRAINING}"}, {}, "teacher "),
    ],
)
def test_failure_is_one_line_that_the_service_shows(host, entry, hyperparameters, changes, message):
    code, failure = entry(hyperparameters, **changes)
    assert message in failure
    assert "\n" not in failure
    assert failure in code
    assert not list((host.root / "model").iterdir())


def test_first_failure_of_a_host_is_kept(host, entry):
    (host.root / "output" / "failure").write_text("out of memory", encoding="utf-8")
    assert entry({"model.warm_up": 1})[1] == "out of memory"
