"""Shared fixtures: tiny models and data, a separate datasets cache, no network access."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# set before transformers and datasets are imported, which read them once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # also in subprocesses: results depend on it bit for bit
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Lightning 2.6 uses names that jsonargparse 4.53 deprecates
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

import datasets
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, BertForMaskedLM, BertForQuestionAnswering

from lightning_kd import models
from lightning_kd.cli.main import main
from lightning_kd.teachers import Teacher
from tests.helpers import TINY_BERT, WORDS, TeacherCalls, clinc_rows, save_model, tiny_bert, write_squad

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _isolate_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def process_group() -> Iterator[None]:
    """Clean up after a sharded strategy with one process."""
    before = set(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - before:  # LOCAL_RANK and others, which a later launcher would read
        del os.environ[name]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_BERT)


@pytest.fixture
def teacher_folder(tmp_path: Path) -> str:
    return save_model(tiny_bert(layers=4, seed=1), tmp_path / "teacher")


@pytest.fixture
def student_folder(tmp_path: Path) -> str:
    return save_model(tiny_bert(labels=None, seed=2), tmp_path / "student")


@pytest.fixture
def add_to_hub_cache(tmp_path, monkeypatch):
    """Return a function that puts a folder into the cache of the Hub's client, as a commit of a repository."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(source: str | Path, repo_id: str, commit: str, branch: str = "main") -> None:
        folder = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
        shutil.copytree(source, folder / "snapshots" / commit, dirs_exist_ok=True)

    return add


@pytest.fixture
def clinc_file(tmp_path: Path) -> Path:
    file = tmp_path / "data_oos_plus.json"
    file.write_text(json.dumps(clinc_rows()), encoding="utf-8")
    return file


@pytest.fixture
def squad_folder(tmp_path: Path) -> Path:
    return write_squad(tmp_path / "squad")


@pytest.fixture
def shell(monkeypatch, capsys):
    """Run a command line; return its exit code, and its error or help text."""

    def invoke(*args: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["lightning-kd", *map(str, args)])
        code: object = 0
        last = ""
        try:
            main()
        except SystemExit as stop:
            code = stop.code
            if isinstance(code, str):
                return code, code
            written = capsys.readouterr()
            last = (written.err or written.out).strip()
        return code, last

    return invoke


@pytest.fixture
def config(tmp_path, clinc_file) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"""
seed_everything: 7
trainer: {{max_epochs: 2, accelerator: cpu, default_root_dir: {tmp_path}, enable_progress_bar: false}}
model:
  task: SequenceClassification
  student: {{config: {TINY_BERT}, num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32}}
  losses:
    hard: {{class_path: HardLabelLoss, init_args: {{weight: 0.5}}}}
  optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data: {{class_path: CLINC150DataModule, init_args: {{path: {clinc_file}, batch_size: 8}}}}
""",
        encoding="utf-8",
    )
    return file


LINES = [" ".join(np.random.default_rng(i).choice(WORDS, 4 + i % 9)) for i in range(48)]


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(LINES), encoding="utf-8")
    (folder / "validation.txt").write_text("\n".join(LINES[:20]), encoding="utf-8")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with data and a teacher, shared by the tests of a file."""
    folder = tmp_path_factory.mktemp("my runs")
    (folder / "data_oos_plus.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
    save_model(tiny_bert(layers=4, seed=1), folder / "teacher")
    return folder


TEACHERS = {
    "classes": {},
    "spans": {"labels": None, "model_class": BertForQuestionAnswering},
    "tokens": {"labels": None, "model_class": BertForMaskedLM},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folder of a teacher for each task, with logits far from 0."""
    folder = tmp_path_factory.mktemp("teachers")
    return {
        name: save_model(tiny_bert(seed=1, initializer_range=1.0, **settings), folder / name)
        for name, settings in TEACHERS.items()
    }


@pytest.fixture
def teacher_calls(monkeypatch):
    calls = TeacherCalls()
    call, load_model = Teacher.__call__, models.load_model

    def recording_call(self, batch, requires=frozenset()):
        calls.batches.append(batch["row_id"].tolist())
        outputs = call(self, batch, requires)
        calls.dtypes |= {head.logits.dtype for head in outputs.heads.values()}
        return outputs

    def recording_load(source, auto_class, role, *args, **kwargs):
        calls.loaded += role == "teacher"
        return load_model(source, auto_class, role, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__call__", recording_call)
    monkeypatch.setattr(models, "load_model", recording_load)
    return calls
