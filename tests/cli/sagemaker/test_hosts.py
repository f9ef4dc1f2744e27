"""A job on two hosts: two processes over gloo, each with folders of its own."""

import shutil
import signal
import socket

import pytest
from transformers import AutoModelForSequenceClassification

from lightning_kd.cli.sagemaker.environment import ScriptMode
from tests.cli.sagemaker.host import wait_for_steps
from tests.helpers import assert_same_weights

HOSTS = ("127.0.0.1", "localhost")  # names that resolve, as algo-1 and algo-2 do in a job
LONG = {"trainer.max_epochs": 8, "last_checkpoint.every_minutes": 0}
NCCL, GLOO = {"NCCL_SOCKET_IFNAME": "lo"}, {"GLOO_SOCKET_IFNAME": "lo"}
TWO = {"trainer.devices": 2, "trainer.strategy": "ddp"}


@pytest.fixture
def make_job(make_host):
    def make(folder):
        return [make_host(f"{folder}-{number}", HOSTS, name) for number, name in enumerate(HOSTS)]

    return make


def start(job, hyperparameters):
    with socket.socket() as free:  # the toolkit of the PyTorch images sets address and port
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [host.start(hyperparameters, MASTER_ADDR=HOSTS[0], MASTER_PORT=port) for host in job]


def ended(processes):
    return [process.wait(timeout=600) for process in processes]


def test_interrupted_twice_two_hosts_end_in_the_weights_of_one_with_two_processes(host, make_job):
    """By SIGTERM to both, and by SIGKILL to the second; the one host under torchrun, as the toolkit does on request."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    whole = host.start({**LONG, **TWO}, torchrun)
    assert whole.wait(timeout=600) == 0, host.log()[-2000:]
    assert host.steps() == 8 * 5  # 72 rows in batches of 8 on each of two
    assert host.failure() is None

    job = make_job("job")
    for number, killed, codes in ((signal.SIGTERM, (0, 1), [143, 143]), (signal.SIGKILL, (1,), [1, -9])):
        before, processes = job[0].steps(), start(job, LONG)
        wait_for_steps(job[0], before + 6, *processes)
        for place in killed:
            processes[place].send_signal(number)
        assert ended(processes) == codes, job[0].log()[-2000:]
        assert before + 6 <= job[0].steps() < host.steps()
        if number == signal.SIGTERM:
            assert [one.failure() for one in job] == [None, None]
            assert not list((job[1].root / "checkpoints").rglob("*.ckpt"))  # the first writes for both
        else:
            assert "another process of this run has ended" in job[0].failure()
        for one in job:
            one.renew()
        places = [one.root / "checkpoints" for one in job]
        shutil.copytree(*places, dirs_exist_ok=True)  # the service does
    assert ended(start(job, LONG)) == [0, 0], job[0].log()[-2000:] + job[1].log()[-2000:]
    assert_same_weights(job[0].weights(), host.weights())
    student = "model/model.safetensors"
    assert (job[0].root / student).read_bytes() == (host.root / student).read_bytes()
    assert len(AutoModelForSequenceClassification.from_pretrained(job[0].root / "model").config.id2label) == 3
    assert (job[0].root / "output" / "data" / "config.yaml").is_file()
    for folder in ("model", "output/data"):
        assert not list((job[1].root / folder).iterdir()), folder


def test_two_processes_that_lightning_starts(host):
    assert host.run({**TWO, "trainer.max_epochs": 1}) == 0, host.log()[-2000:]
    assert AutoModelForSequenceClassification.from_pretrained(host.root / "model").config.num_labels == 3
    assert host.steps() == 5
    assert host.failure() is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"MASTER_ADDR": "algo-1", "MASTER_PORT": "7777", "NODE_RANK": "1", **NCCL, **GLOO}),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "1", "NCCL_SOCKET_IFNAME": "eth0"}, {"NODE_RANK": "1", **GLOO}),
        ({"TORCHELASTIC_RUN_ID": "none"}, {}),
    ],
)
def test_rendezvous_keeps_variables_that_a_toolkit_has_set(make_host, variables, expected):
    job = ScriptMode.from_environment(make_host(hosts=("algo-2", "algo-1", "algo-3"), name="algo-2").variables())
    assert job.rendezvous_variables(variables) == expected


def test_one_host_needs_no_rendezvous(host):
    assert ScriptMode.from_environment(host.variables()).rendezvous_variables({}) == {}
