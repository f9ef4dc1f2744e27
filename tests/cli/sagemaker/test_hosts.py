"""A job on two hosts: two processes over gloo, each with folders of its own."""

import shutil
import signal
import socket

import pytest
from transformers import AutoModelForSequenceClassification

from lightning_kd.cli.sagemaker.environment import ScriptMode
from tests.cli.sagemaker.host import same_weights, wait_for_steps

HOSTS = ("127.0.0.1", "localhost")  # names that resolve, as algo-1 and algo-2 do in a job
LONG = {"trainer.max_epochs": 8, "last_checkpoint.every_minutes": 0}
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
    assert same_weights(job[0].last, host.last)
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


def rendezvous(make_host, name="algo-2", hosts=("algo-2", "algo-1", "algo-3"), **set_already):
    return ScriptMode.from_environment(make_host(hosts=hosts, name=name).variables()).rendezvous_variables(set_already)


def test_hosts_meet_at_the_first(make_host):
    assert rendezvous(make_host) == {
        "MASTER_ADDR": "algo-1",
        "MASTER_PORT": "7777",
        "NODE_RANK": "1",
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def test_what_a_toolkit_has_set_is_left(make_host):
    set_already = {"MASTER_ADDR": "algo-1", "MASTER_PORT": "7778", "NCCL_SOCKET_IFNAME": "eth0"}
    assert rendezvous(make_host, **set_already) == {"NODE_RANK": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_torchrun_knows_where_its_processes_meet(make_host):
    assert rendezvous(make_host, TORCHELASTIC_RUN_ID="none") == {}


def test_one_host_meets_nobody(make_host):
    assert rendezvous(make_host, "algo-1", ("algo-1",)) == {}
