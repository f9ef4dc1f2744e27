"""Damaged files, and ones that would run a program when loaded: one line that says so, and nothing else changes."""

import os
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_kd import DistillationModule
from lightning_kd.callbacks import LastCheckpoint, StudentExport
from tests.cli.test_fit import config, folder  # noqa: F401
from tests.conftest import save_network, tiny_bert
from tests.runs import data, module, trainer


def truncate(file):
    os.truncate(file, file.stat().st_size * 2 // 3)


def empty(file):
    os.truncate(file, 0)


def other_bytes_in_the_middle(file):
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        there = stream.read(4096)
        stream.seek(-len(there), os.SEEK_CUR)
        stream.write(bytes(byte ^ 255 for byte in there))


class Program:
    """Would leave a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def malicious(file):
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "more": Program(file.with_name("mark"))}, file)


def files(root):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in root.rglob("*")}


DAMAGES = [
    (truncate, "is damaged (File is not a zip file); take another (--ckpt_path), such as best.ckpt"),
    (empty, "is damaged (File is not a zip file)"),
    (other_bytes_in_the_middle, "is damaged (the checksum of archive/data/"),
    (malicious, f"holds more than tensors and plain data ({os.name}.mkdir), which could run a program"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_checkpoint_on_every_path(tmp_path, config, shell, damage, message):  # noqa: F811
    assert shell("fit", "--config", config, "--trainer.max_epochs=1")[0] == 0
    run_folder = folder(tmp_path)
    last = run_folder / "checkpoints" / "last.ckpt"
    damage(last)
    before = files(tmp_path)
    commands = [[name, "--config", config, f"--ckpt_path={last}"] for name in ("fit", "validate", "test", "predict")]
    for command in [["fit", "--resume", run_folder], *commands]:
        code, text = shell(*command)
        assert code
        assert f"checkpoint '{last}' {message}" in text
        assert "\n" not in text
    with pytest.raises(ValueError, match=r"last\.ckpt' (is damaged|holds more)"):
        DistillationModule.load_from_checkpoint(last)
    assert files(tmp_path) == before
    best = last.with_name("best.ckpt")
    assert shell("fit", "--resume", run_folder, f"--ckpt_path={best}", "--trainer.max_epochs=2")[0] == 0


@pytest.mark.filterwarnings("ignore:.*multiple `ModelCheckpoint` callbacks")
def test_nothing_unpickles_in_python_either(tmp_path, clinc_file):
    """The best checkpoint, which the exporter and ``ckpt_path="best"`` read, and a resumed fit."""
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/accuracy")
    fit = trainer(tmp_path, callbacks=[best, LastCheckpoint()], enable_checkpointing=True)
    rows, fitted = data(clinc_file), module()
    fit.fit(fitted, rows)
    best = Path(best.best_model_path)
    malicious(best)
    refused = partial(pytest.raises, ValueError, match="holds more than tensors and plain data")
    for run in (fit.validate, fit.test):
        with refused():
            run(datamodule=rows, ckpt_path="best")
    with refused():
        trainer(tmp_path / "new", callbacks=[LastCheckpoint()], enable_checkpointing=True).fit(
            module(), data(clinc_file), ckpt_path=best
        )
    with refused():
        StudentExport(str(tmp_path / "student")).on_fit_end(fit, fitted)
    assert not (best.parent / "mark").exists()
    assert not (tmp_path / "student").exists()


@pytest.fixture
def address(tmp_path):
    """Of a folder that is served on this machine."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with HTTPServer(("localhost", 0), partial(Handler, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served, f"http://localhost:{server.server_port}"
        server.shutdown()


def test_checkpoint_from_elsewhere(tmp_path, clinc_file, address, monkeypatch):
    """Where Lightning itself would unpickle."""
    served, url = address
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    fit = trainer(tmp_path, callbacks=[LastCheckpoint()], enable_checkpointing=True)
    fit.fit(module(), data(clinc_file))
    file = served / "a.ckpt"
    fit.save_checkpoint(file)
    assert DistillationModule.load_from_checkpoint(f"{url}/a.ckpt").label_names
    malicious(file)
    file.rename(served / "b.ckpt")
    with pytest.raises(ValueError, match=r"b\.ckpt' holds more than tensors and plain data"):
        DistillationModule.load_from_checkpoint(f"{url}/b.ckpt")
    assert not (served / "mark").exists()


@pytest.mark.parametrize("damage", [truncate, empty])
@pytest.mark.parametrize("who", ["teacher", "student"])
def test_weights(tmp_path, config, shell, who, damage):  # noqa: F811
    network = Path(save_network(tiny_bert(seed=1), tmp_path / "network"))
    damage(network / "model.safetensors")
    soft = ["--model.losses.soft=SoftTargetLoss"] if who == "teacher" else []
    code, text = shell("fit", "--config", config, f"--model.{who}={network}", *soft)
    assert code
    assert f"{who} '{network}' is on disk but cannot be loaded: SafetensorError" in text
    assert "copy or download it again" in text
    assert not folder(tmp_path).exists()


def test_weights_that_would_run_a_program(tmp_path, config, shell):  # noqa: F811
    network = Path(save_network(tiny_bert(seed=1), tmp_path / "network"))
    (network / "model.safetensors").unlink()
    torch.save({"a": Program(tmp_path / "mark")}, network / "pytorch_model.bin")
    code, text = shell("fit", "--config", config, f"--model.student={network}")
    assert code
    assert f"student '{network}' is on disk but cannot be loaded" in text
    assert not (tmp_path / "mark").exists()


def test_loss_that_is_not_a_number_leaves_what_was_there(tmp_path, config, shell):  # noqa: F811
    student = tmp_path / "kept"
    assert shell("fit", "--config", config, "--trainer.max_epochs=1", f"--export.folder={student}")[0] == 0
    before = {**files(folder(tmp_path)), **files(student)}
    diverging = ["--model.optimizer.init_args.lr=1e30", "--last.every_minutes=100", f"--export.folder={student}"]
    code, text = shell("fit", "--config", config, *diverging)
    assert code
    assert "error: train/hard is nan in epoch 0, step 1, for the rows [" in text
    assert {**files(folder(tmp_path)), **files(student)} == before
    assert not folder(tmp_path, 1).exists()
