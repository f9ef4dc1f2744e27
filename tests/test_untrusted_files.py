"""Checkpoints and model folders of somebody else run no code and import no module, whatever the command."""

import contextlib
import io
import json
import sys

import pytest
import torch

from lightning_kd import DistillationModule
from tests.helpers import data, save_model, tiny_bert, trainer, version_dir

MODULE = "from pathlib import Path\nPath({!r}).touch()\n"


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that exists once ``untrusted`` is imported, a module in the current folder, which is on the path."""
    mark = tmp_path / "mark"
    (tmp_path / "untrusted.py").write_text(MODULE.format(str(mark)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))  # transformers asks whether to run code
    return mark


@pytest.fixture
def model_with_code(tmp_path, mark):
    """A folder whose configuration names classes in a file of its own."""
    folder = save_model(tiny_bert(layers=2, seed=1), tmp_path / "model with code")
    names = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    config = json.loads((tmp_path / folder / "config.json").read_text())
    (tmp_path / folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (tmp_path / folder / "code.py").write_text(MODULE.format(str(mark)))
    return folder


SOFT = {"soft": {"class_path": "lightning_kd.losses.SoftTargetLoss", "init_args": {}}}
TRUSTED = {"pretrained": "model with code", "trust_remote_code": True}


def poison(checkpoint, **hyperparameters):
    loaded = torch.load(checkpoint, weights_only=True)
    loaded["hyper_parameters"] |= hyperparameters
    torch.save(loaded, checkpoint)


def mapping(name):
    return {"class_path": f"untrusted.{name}", "init_args": {}}


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"task": mapping("Task")},
        {"task": "untrusted.Task"},
        {"losses": {"hard": mapping("Loss")}},
        {"losses": {"hard": "untrusted.Loss"}},
        {"optimizer": mapping("Optimizer")},
        {"teacher_cache": mapping("Cache")},
        {"student": "model with code"},
        {"losses": SOFT, "teacher": "model with code"},
        {"losses": SOFT, "teacher": TRUSTED},
        {"losses": SOFT, "teacher": {"ensemble": [TRUSTED, TRUSTED], "combine": "logits"}},
    ],
    ids=str,
)
def test_checkpoint(tmp_path, clinc_file, config, shell, mark, model_with_code, hyperparameters):
    assert shell("fit", "--config", config, "--trainer.max_epochs=1")[0] == 0
    run = version_dir(tmp_path)
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    poison(best, **hyperparameters)
    poison(last, **hyperparameters)
    texts = tmp_path / "texts.txt"
    texts.write_text("hello\n")
    for command in (
        ["fit", "--resume", run, "--trainer.max_epochs=2"],
        ["fit", "--config", config, f"--ckpt_path={last}", "--trainer.max_epochs=2"],
        ["validate", "--config", config, f"--ckpt_path={best}"],
        ["test", "--config", config, f"--ckpt_path={best}"],
        ["predict", "--config", config, f"--ckpt_path={best}", f"--data.init_args.predict_path={texts}"],
    ):
        shell(*command)
        assert not mark.exists(), command
    with contextlib.suppress(ValueError, OSError):
        trainer(tmp_path).fit(DistillationModule.load_from_checkpoint(best), data(clinc_file))
    assert not mark.exists()
    assert "untrusted" not in sys.modules


@pytest.mark.parametrize("command", ["fit", "teacher", "cache", "export", "report", "probe"])
def test_model_folder(tmp_path, config, shell, mark, model_with_code, clinc_file, command):
    datamodule = ["--data=CLINC150DataModule", f"--data.path={clinc_file}"]
    cache = f"--model.teacher_cache={tmp_path / 'cache'}"
    soft = '--model.losses={"soft": {"class_path": "SoftTargetLoss"}}'
    arguments = {
        "fit": ["fit", "--config", config, f"--model.student={model_with_code}"],
        "teacher": ["fit", "--config", config, soft, f"--model.teacher={model_with_code}"],
        "cache": ["cache", "--config", config, soft, f"--model.teacher={model_with_code}", cache],
        "export": ["export", "onnx", "--model", model_with_code, "--output_dir", tmp_path / "onnx", *datamodule],
        "report": ["report", "--models", model_with_code, "--output_dir", tmp_path / "report", *datamodule],
        "probe": ["probe", "--teacher", model_with_code, "--output_dir", tmp_path / "probe", *datamodule],
    }[command]
    code, message = shell(*arguments)
    assert code
    assert "model with code" in message
    assert not mark.exists()


OWN_CLASSES = """
from torch.optim import AdamW
from lightning_kd import SequenceClassification
from lightning_kd.losses import HardLabelLoss

class Loss(HardLabelLoss): pass
class Task(SequenceClassification): pass
class Optimizer(AdamW): pass
"""


def test_own_classes_that_the_config_names(tmp_path, config, shell, monkeypatch):
    (tmp_path / "own_classes.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    text = config.read_text()
    for old, new in (("HardLabelLoss", "Loss"), ("SequenceClassification", "Task"), ("torch.optim.AdamW", "Optimizer")):
        text = text.replace(old, f"own_classes.{new}")
    config.write_text(text)
    assert shell("fit", "--config", config) == (0, "")
    run = version_dir(tmp_path)
    best = run / "checkpoints" / "best.ckpt"
    for command in (
        ["fit", "--resume", run, "--trainer.max_epochs=3"],
        ["test", "--config", config, f"--ckpt_path={best}"],
    ):
        monkeypatch.delitem(sys.modules, "own_classes")  # as in a new process
        assert shell(*command) == (0, "")
    assert type(DistillationModule.load_from_checkpoint(best).task).__name__ == "Task"
    monkeypatch.delitem(sys.modules, "own_classes")
    with pytest.raises(ValueError, match=r"task: the checkpoint names 'own_classes\.Task', which is not imported"):
        DistillationModule.load_from_checkpoint(best)


TOKEN = {"pretrained": "some/model", "token": "hf_secret"}


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("model.student", TOKEN),
        ("model.student", {"config": "some/model", "use_auth_token": "hf_secret"}),
        ("model.teacher", TOKEN),
        ("model.teacher", [TOKEN, TOKEN]),
        ("model.teacher", {"ensemble": [TOKEN, TOKEN], "combine": "probabilities"}),
    ],
)
def test_tokens_are_not_written(tmp_path, config, shell, key, source):
    code, message = shell("fit", "--config", config, f"--{key}={json.dumps(source)}")
    assert code
    assert "HF_TOKEN" in message
    assert "hf_secret" not in message
    assert not any(b"hf_secret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
