"""Damaged and malicious files give a one-line error, and no file changes."""

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
from tests.helpers import MaliciousObject, data, module, save_model, tiny_bert, trainer, version_dir


def truncate(file):
    os.truncate(file, file.stat().st_size * 2 // 3)


def empty(file):
    os.truncate(file, 0)


def flip_bytes(file):
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        there = stream.read(4096)
        stream.seek(-len(there), os.SEEK_CUR)
        stream.write(bytes(byte ^ 255 for byte in there))


def inject_malicious_object(file):
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "more": MaliciousObject(file.with_name("mark"))}, file)


def file_stats(root):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in root.rglob("*")}


DAMAGES = [
    (truncate, "is damaged (File is not a zip file); use another (--ckpt_path), such as best.ckpt"),
    (empty, "is damaged (File is not a zip file)"),
    (flip_bytes, "is damaged (wrong checksum of archive/data/"),
    (inject_malicious_object, f"holds objects other than tensors and plain data ({os.name}.mkdir)"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_checkpoint_in_every_command(tmp_path, config, shell, damage, message):
    assert shell("fit", "--config", config, "--trainer.max_epochs=1")[0] == 0
    run_dir = version_dir(tmp_path)
    last = run_dir / "checkpoints" / "last.ckpt"
    damage(last)
    before = file_stats(tmp_path)
    commands = [[name, "--config", config, f"--ckpt_path={last}"] for name in ("fit", "validate", "test", "predict")]
    for command in [["fit", "--resume", run_dir], *commands]:
        code, text = shell(*command)
        assert code
        assert f"checkpoint '{last}' {message}" in text
        assert "\n" not in text
    with pytest.raises(ValueError, match=r"last\.ckpt' (is damaged|holds objects)"):
        DistillationModule.load_from_checkpoint(last)
    assert file_stats(tmp_path) == before
    best = last.with_name("best.ckpt")
    assert shell("fit", "--resume", run_dir, f"--ckpt_path={best}", "--trainer.max_epochs=2")[0] == 0


@pytest.mark.filterwarnings("ignore:.*multiple `ModelCheckpoint` callbacks")
def test_malicious_checkpoint_in_python(tmp_path, clinc_file):
    """Read by ``ckpt_path="best"``, by the export, and by a resumed fit."""
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/accuracy")
    fit = trainer(tmp_path, callbacks=[best, LastCheckpoint()], enable_checkpointing=True)
    rows, fitted = data(clinc_file), module()
    fit.fit(fitted, rows)
    best = Path(best.best_model_path)
    inject_malicious_object(best)
    expect_refusal = partial(pytest.raises, ValueError, match="holds objects other than tensors")
    for run in (fit.validate, fit.test):
        with expect_refusal():
            run(datamodule=rows, ckpt_path="best")
    with expect_refusal():
        resumed = trainer(tmp_path / "new", callbacks=[LastCheckpoint()], enable_checkpointing=True)
        resumed.fit(module(), data(clinc_file), ckpt_path=best)
    with expect_refusal():
        StudentExport(str(tmp_path / "student")).on_fit_end(fit, fitted)
    assert not (best.parent / "mark").exists()
    assert not (tmp_path / "student").exists()


@pytest.fixture
def file_server(tmp_path):
    """Serve a folder on localhost."""
    served = tmp_path / "served"
    served.mkdir()

    with HTTPServer(("localhost", 0), partial(SimpleHTTPRequestHandler, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served, f"http://localhost:{server.server_port}"
        server.shutdown()


def test_malicious_checkpoint_from_a_url(tmp_path, clinc_file, file_server, monkeypatch):
    """Lightning unpickles checkpoints from a URL (2.6)."""
    served, url = file_server
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    fit = trainer(tmp_path, callbacks=[LastCheckpoint()], enable_checkpointing=True)
    fit.fit(module(), data(clinc_file))
    file = served / "a.ckpt"
    fit.save_checkpoint(file)
    assert DistillationModule.load_from_checkpoint(f"{url}/a.ckpt").label_names
    inject_malicious_object(file)
    file.rename(served / "b.ckpt")
    with pytest.raises(ValueError, match=r"b\.ckpt' holds objects other than tensors"):
        DistillationModule.load_from_checkpoint(f"{url}/b.ckpt")
    assert not (served / "mark").exists()


def replace_by_malicious_weights(file):
    torch.save({"a": MaliciousObject(file.with_name("mark"))}, file.with_name("pytorch_model.bin"))
    file.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(truncate, ": SafetensorError"), (empty, ": SafetensorError"), (replace_by_malicious_weights, "")],
)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_damaged_weights(tmp_path, config, shell, role, damage, reason):
    model = Path(save_model(tiny_bert(seed=1), tmp_path / "model"))
    damage(model / "model.safetensors")
    soft = ["--model.losses.soft=SoftTargetLoss"] if role == "teacher" else []
    code, text = shell("fit", "--config", config, f"--model.{role}={model}", *soft)
    assert code
    assert f"{role} '{model}' exists but cannot be loaded{reason}" in text
    assert "copy or download it again" in text
    assert not (model / "mark").exists()
    assert not version_dir(tmp_path).exists()


def test_nan_loss_keeps_existing_files(tmp_path, config, shell):
    student = tmp_path / "kept"
    assert shell("fit", "--config", config, "--trainer.max_epochs=1", f"--export.output_dir={student}")[0] == 0
    before = {**file_stats(version_dir(tmp_path)), **file_stats(student)}
    diverging = ["--model.optimizer.init_args.lr=1e30", "--last_checkpoint.every_minutes=100"]
    code, text = shell("fit", "--config", config, *diverging, f"--export.output_dir={student}")
    assert code
    assert "error: train/hard is nan in epoch 0, step 1, for the examples [" in text
    assert {**file_stats(version_dir(tmp_path)), **file_stats(student)} == before
    assert not version_dir(tmp_path, 1).exists()
