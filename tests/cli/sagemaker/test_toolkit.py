"""The launcher's request carried out by SageMaker's own training toolkit, where it is installed.

``pip install sagemaker-training sagemaker-pytorch-training``: what AWS's PyTorch images run. They are no requirement of
the tests, for they need much else.
"""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForSequenceClassification

from tests.cli.sagemaker.host import PACKED
from tests.cli.sagemaker.service import Service

pytest.importorskip("sagemaker_training")

VARIABLES = """
import json
from sagemaker_training.environment import Environment
print(json.dumps(Environment().to_env_vars()))
"""
TRAIN = "from sagemaker_training.trainer import train; train()"


def input_config(host, hyperparameters):
    """What the service writes into input/config, by name of the file."""
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": host.hosts}
    resources = {
        "current_host": host.name,
        "current_instance_type": "ml.m5.large",
        "current_group_name": "homogeneousCluster",
        "hosts": host.hosts,
        "instance_groups": [group],
        "network_interface_name": "lo",
    }
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    channels = {folder.name: channel for folder in sorted((host.root / "input" / "data").iterdir())}
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in hyperparameters.items()}
    return {"resourceconfig": resources, "inputdataconfig": channels, "hyperparameters": texts}


def toolkit(program, host, hyperparameters, variables=None):
    for name, content in input_config(host, hyperparameters).items():
        (host.root / "input" / "config" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # what was packed runs
    environment |= {"SAGEMAKER_BASE_DIR": str(host.root), "AWS_REGION": "eu-west-1", **(variables or {})}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_the_variables_of_our_tests_are_those_of_the_toolkit(make_host):
    host = make_host(hosts=("algo-1", "algo-2"), name="algo-2")
    hyperparameters = {"model.losses.hard.init_args.weight": 0.25, "model.teacher": "${SM_CHANNEL_TEACHER}"}
    own = {"sagemaker_program": "train.py", "sagemaker_submit_directory": str(host.root / "code")}
    done = toolkit(VARIABLES, host, {**hyperparameters, **own})
    assert host.variables(**hyperparameters).items() <= json.loads(done.stdout.splitlines()[-1]).items()


@pytest.fixture
def submitted(host, shell, monkeypatch, tmp_path):
    """The hyperparameters that the launcher sent, and the variables that lead the toolkit to its source."""
    pytest.importorskip("sagemaker_pytorch_container")
    service = Service()
    for name, value in service.variables().items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "distill.yaml"
    config.write_text(PACKED, encoding="utf-8")
    places = ["--output_path=s3://bucket/kd", "--channels.training=s3://bucket/texts"]
    machine = ["--instance_type=ml.m5.large", "--role=arn:aws:iam::123456789012:role/training", "--image_uri=pytorch"]
    change = ["--hyperparameters", "model.losses.hard.init_args.label_smoothing=0.1"]
    assert shell("sagemaker", f"--config={config}", *places, *machine, *change)[0] == 0
    (host.root / "code" / "config.yaml").unlink()  # the toolkit unpacks into an empty folder
    host.hosts, host.name = ["localhost"], "localhost"  # it waits for the names to resolve
    return service.jobs[0]["HyperParameters"], {
        "S3_ENDPOINT_URL": service.address,
        "LIGHTNING_KD_CHECKPOINT_DIR": str(host.root / "checkpoints"),
        "SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main",
        "PIP_NO_INDEX": "1",  # all requirements are here
    }


def test_the_toolkit_trains_what_the_launcher_sent(host, submitted):
    done = toolkit(TRAIN, host, *submitted)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert AutoModelForSequenceClassification.from_pretrained(host.root / "model").config.num_labels == 3
    assert "label_smoothing: 0.1" in (host.root / "output" / "data" / "config.yaml").read_text(encoding="utf-8")
    assert (host.root / "output" / "success").exists()
    assert (host.root / "code" / "lightning_kd" / "cli" / "fit.py").is_file()


def test_the_reason_is_ours_and_not_the_toolkits(host, submitted):
    (host.channel("training") / "data_oos_plus.json").write_text("{", encoding="utf-8")
    done = toolkit(TRAIN, host, *submitted)
    assert done.returncode == 1
    assert "data_oos_plus.json" in host.failure()
    assert "\n" not in host.failure()
