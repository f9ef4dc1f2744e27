"""FSDP2 with one process; for two processes see test_scale.py."""

import json
import os
import pickle
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.distributed.checkpoint import BytesStorageMetadata, FileSystemReader

from lightning_kd import FSDP2Strategy, LazyAdamW
from lightning_kd.callbacks import StudentPruning
from lightning_kd.models.sharding import full_state_dict, shard
from tests.helpers import STUDENT, MaliciousObject, data, module, tiny_bert, trainer, version_dir

pytestmark = pytest.mark.usefixtures("process_group")


def strategy_argument(class_path="FSDP2Strategy", **init_args):
    strategy = {"class_path": class_path, "init_args": init_args}
    return f"--trainer.strategy={json.dumps(strategy)}"


@pytest.mark.parametrize("strategy", [{}, {"class_path": "lightning_kd.FSDP2Strategy", "data_parallel_size": 1}])
def test_checkpoints_are_files(tmp_path, config, shell, strategy):
    arguments = ["--config", config, "--trainer.devices=1", strategy_argument(**strategy)]
    assert shell("fit", *arguments)[0] == 0
    checkpoints = version_dir(tmp_path) / "checkpoints"
    assert all((checkpoints / name).is_file() for name in ("last.ckpt", "best.ckpt"))
    assert shell("test", *arguments, f"--ckpt_path={checkpoints / 'best.ckpt'}") == (0, "")


def test_checkpoints_are_folders_on_request(tmp_path, config, shell):
    strategy = strategy_argument(save_distributed_checkpoint=True)
    assert shell("fit", "--config", config, "--trainer.devices=1", strategy)[0] == 0
    run = version_dir(tmp_path)
    assert all((run / "checkpoints" / name).is_dir() for name in ("last.ckpt", "best.ckpt"))
    assert (run / "student" / "model.safetensors").is_file()
    assert shell("fit", "--resume", run, "--trainer.max_epochs=3") == (0, "")
    metadata = torch.load(run / "checkpoints" / "last.ckpt" / "meta.pt", weights_only=True)
    assert metadata["epoch"] == 2
    code, message = shell("test", "--config", config, f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}")
    assert code != 0
    assert "ckpt_path: " in message
    assert "lightning-kd consolidate" in message
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def poison_index(folder):
    (folder / ".metadata").write_bytes(pickle.dumps(MaliciousObject(folder / "mark")))


def poison_value(folder):
    """Replace a value that is not a tensor, which PyTorch unpickles when it loads the optimizer."""
    index = FileSystemReader(folder).read_metadata()
    key = next(k for k in index.storage_data if isinstance(index.state_dict_metadata[k.fqn], BytesStorageMetadata))
    place = index.storage_data[key]
    with (folder / place.relative_path).open("ab") as file:
        start = file.tell()
        torch.save(MaliciousObject(folder / "mark"), file)
        index.storage_data[key] = replace(place, offset=start, length=file.tell() - start)
    (folder / ".metadata").write_bytes(pickle.dumps(index))


@pytest.mark.parametrize("poison", [poison_index, poison_value])
def test_sharded_checkpoint_that_would_run_code(tmp_path, config, shell, poison):
    strategy = strategy_argument(save_distributed_checkpoint=True)
    assert shell("fit", "--config", config, "--trainer.devices=1", strategy)[0] == 0
    run = version_dir(tmp_path)
    last = run / "checkpoints" / "last.ckpt"
    poison(last)
    for command in (
        ["fit", "--resume", run, "--trainer.max_epochs=3"],
        ["test", "--config", run / "config.yaml", f"--ckpt_path={last}"],
        ["consolidate", last, "--output", tmp_path / "whole.ckpt"],
    ):
        code, message = shell(*command)
        assert code
        assert f"checkpoint '{last}' holds objects other than tensors and plain data ({os.name}.mkdir)" in message
        assert not (last / "mark").exists()
    assert not (tmp_path / "whole.ckpt").exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_precision(tmp_path, clinc_file, teacher_folder, precision):
    weights = []
    for strategy in ("auto", FSDP2Strategy()):
        # without dropout, whose numbers depend on what is spared
        student = {**STUDENT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        fitted = module(teacher_folder, student=student)
        settings = {"precision": precision, "gradient_clip_val": 1.0, "accumulate_grad_batches": 2, "devices": 1}
        trainer(tmp_path, strategy=strategy, **settings).fit(fitted, data(clinc_file))
        weights.append(full_state_dict(fitted.student))
        assert fitted.teacher.load()[0].dtype == fitted.student.dtype
    assert all(torch.allclose(weight, weights[1][name], atol=1e-2) for name, weight in weights[0].items())


@pytest.mark.parametrize("callback", [StudentPruning(0.5), EMAWeightAveraging(use_buffers=False)])
@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_callbacks_that_need_whole_weights(tmp_path, clinc_file, callback):
    run = trainer(tmp_path, strategy=FSDP2Strategy(), devices=1, callbacks=[callback])
    with pytest.raises(ValueError, match=r"needs whole weights, and trainer.strategy FSDP2Strategy .*use ddp"):
        run.fit(module(), data(clinc_file))


def test_module_as_cached_teacher(tmp_path, clinc_file):
    teacher = tiny_bert(layers=2, seed=1)
    for cached in (0, 72):  # sharding changes the repr of the teacher
        fitted = module(teacher, teacher_cache=str(tmp_path / "cache"))
        cached_at_start = []

        class RecordCacheSize(Callback):
            def on_train_start(self, trainer, pl_module, into=cached_at_start):
                into.append(len(pl_module.cached_teachers["train"].store))

        settings = {"strategy": FSDP2Strategy(), "devices": 1, "callbacks": [RecordCacheSize()]}
        trainer(tmp_path, **settings).fit(fitted, data(clinc_file))
        assert cached_at_start == [cached]


def test_lazy_optimizer_needs_whole_embeddings(tmp_path, clinc_file):
    fitted = module(optimizer=partial(LazyAdamW, lr=1e-3))
    with pytest.raises(ValueError, match=r"optimizer: LazyAdamW needs whole embeddings.*use AdamW"):
        trainer(tmp_path, strategy=FSDP2Strategy(), devices=1).fit(fitted, data(clinc_file))


def test_layers_are_not_sharded():
    mesh = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}
    with pytest.raises(ValueError, match=r"tensor_parallel_size: .*2.*FSDP2Strategy"):
        shard(tiny_bert(), mesh)
