"""A job on two hosts: two processes over gloo, each with folders of its own."""

import shutil
import signal
import socket

import pytest
from transformers import AutoModelForSequenceClassification

from lightning_kd.sagemaker.environment import ScriptMode
from tests.sagemaker.host import same_weights, wait_for_steps

HOSTS = ("127.0.0.1", "localhost")  # names that resolve, as algo-1 and algo-2 do in a job
LONG = {"trainer.max_epochs": 12, "last.every_minutes": 0}


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


def test_one_model_of_both_and_the_same_weights_after_an_interruption(make_job):
    whole, job = make_job("whole"), make_job("killed")
    assert ended(start(whole, LONG)) == [0, 0], whole[0].log()[-2000:] + whole[1].log()[-2000:]
    assert whole[0].steps() == 12 * 5  # 72 rows in batches of 8 on each of two
    assert len(AutoModelForSequenceClassification.from_pretrained(whole[0].root / "model").config.id2label) == 3
    assert (whole[0].root / "output" / "data" / "config.yaml").is_file()
    for folder in ("model", "output/data", "checkpoints/checkpoints"):
        path = whole[1].root / folder
        assert not path.exists() or not list(path.iterdir()), folder

    processes = start(job, LONG)
    wait_for_steps(job[0], 20, *processes)
    processes[1].send_signal(signal.SIGKILL)
    codes = ended(processes)
    assert codes[0] == 1, job[0].log()[-2000:]
    assert "another process of this run has ended" in job[0].failure()
    assert 20 <= job[0].steps() < whole[0].steps()
    for host in job:
        host.renew()
    shutil.copytree(job[0].root / "checkpoints", job[1].root / "checkpoints", dirs_exist_ok=True)  # the service does
    assert ended(start(job, LONG)) == [0, 0], job[0].log()[-2000:] + job[1].log()[-2000:]
    assert same_weights(job[0].last, whole[0].last)
    student = "model/model.safetensors"
    assert (job[0].root / student).read_bytes() == (whole[0].root / student).read_bytes()


def test_both_are_told_to_end(make_job):
    job = make_job("told")
    processes = start(job, LONG)
    wait_for_steps(job[0], 20, *processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert ended(processes) == [143, 143], job[0].log()[-2000:]
    assert job[0].steps() >= 20
    assert [host.failure() for host in job] == [None, None]


@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")])
def test_two_processes_on_one_host(host, launcher):
    """Started by Lightning, or by torchrun as the toolkit does on request."""
    process = host.start({"trainer.devices": 2, "trainer.strategy": "ddp"}, launcher)
    assert process.wait(timeout=600) == 0, host.log()[-2000:]
    assert AutoModelForSequenceClassification.from_pretrained(host.root / "model").config.num_labels == 3
    assert host.steps() == 2 * 5
    assert host.failure() is None


def meeting(make_host, name="algo-2", hosts=("algo-2", "algo-1", "algo-3"), **set_already):
    return ScriptMode.read(make_host(hosts=hosts, name=name).variables()).meeting(set_already)


def test_hosts_meet_at_the_first(make_host):
    assert meeting(make_host) == {
        "MASTER_ADDR": "algo-1",
        "MASTER_PORT": "7777",
        "NODE_RANK": "1",
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def test_what_a_toolkit_has_set_is_left(make_host):
    set_already = {"MASTER_ADDR": "algo-1", "MASTER_PORT": "7778", "NCCL_SOCKET_IFNAME": "eth0"}
    assert meeting(make_host, **set_already) == {"NODE_RANK": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_torchrun_knows_where_its_processes_meet(make_host):
    assert meeting(make_host, TORCHELASTIC_RUN_ID="none") == {}


def test_one_host_meets_nobody(make_host):
    assert meeting(make_host, "algo-1", ("algo-1",)) == {}
