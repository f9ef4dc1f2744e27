"""Shared fixtures: a tiny tokenizer and data set, made-up networks, no network, a cache of its own."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# before transformers and datasets are imported: they read these once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start, too: the bits depend on it
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Lightning still calls jsonargparse by names that are going away
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

import datasets
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from lightning_kd.__main__ import main

QUICKSTART = Path(__file__).parent.parent / "lightning_kd" / "data" / "quickstart"
TINY_BERT = QUICKSTART / "tiny-bert"
LABELS = ["greet", "leave", "oos"]

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _isolate_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def process_group() -> Iterator[None]:
    """For runs with a strategy that shards, with one process: afterwards there is none again."""
    before = set(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - before:  # LOCAL_RANK and others, which later launchers would believe
        del os.environ[name]


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_BERT)


def tiny_bert(labels=LABELS, layers=2, seed=0, model_class=BertForSequenceClassification, **config):
    """A BERT of 16 dimensions, a classifier unless told otherwise, with seeded random weights."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    settings = {"vocab_size": 1200, "num_hidden_layers": layers, **sizes, **config}
    names = {} if labels is None else {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    return model_class(BertConfig(**settings, **names))


def save_model(model, folder: Path, tokenizer=None) -> str:
    model.save_pretrained(folder)
    (tokenizer or AutoTokenizer.from_pretrained(TINY_BERT)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def teacher_folder(tmp_path: Path) -> str:
    return save_model(tiny_bert(layers=4, seed=1), tmp_path / "teacher")


@pytest.fixture
def student_folder(tmp_path: Path) -> str:
    return save_model(tiny_bert(labels=None, seed=2), tmp_path / "student")


def clinc_rows() -> dict:
    """Rows in CLINC150's layout that a small network learns in a few steps."""
    words = ["water", "desk", "paper", "plant", "leak", "room"]
    greetings = [[f"hello {word} good morning to you", "greet"] for word in words]
    farewells = [[f"goodbye {word} see you later then", "leave"] for word in words]
    others = [[f"what is the {word} of france", "oos"] for word in words]
    rows = {}
    for split, times in (("train", 4), ("val", 2), ("test", 2)):
        rows[split] = (greetings + farewells) * times
        rows[f"oos_{split}"] = others * times
    return rows


@pytest.fixture
def clinc_file(tmp_path: Path) -> Path:
    file = tmp_path / "data_oos_plus.json"
    file.write_text(json.dumps(clinc_rows()), encoding="utf-8")
    return file


def squad(questions: list[dict]) -> dict:
    """SQuAD's layout; each question has ``id``, ``question``, ``context`` and ``answers``, texts in the context."""
    paragraphs = [
        {
            "context": question["context"],
            "qas": [
                {
                    "id": question["id"],
                    "question": question["question"],
                    "answers": [
                        {"text": text, "answer_start": question["context"].index(text)} for text in question["answers"]
                    ],
                }
            ],
        }
        for question in questions
    ]
    return {"version": "1.1", "data": [{"title": "things", "paragraphs": paragraphs}]}


def squad_questions(prefix: str, times: int = 1) -> list[dict]:
    """Questions whose answer is the word after "the"."""
    return [
        {
            "id": f"{prefix}{time}{word}",
            "question": "what is it?",
            "context": f"hello good morning to you {'then ' * time}see the {word} later in the room",
            "answers": [word, f"the {word}"],
        }
        for time in range(times)
        for word in ("water", "desk", "paper", "plant", "leak")
    ]


def write_squad(folder: Path) -> Path:
    folder.mkdir()
    for name, content in (("train", squad_questions("t", 4)), ("dev", squad_questions("d", 3)[:-2])):
        (folder / f"{name}-v1.1.json").write_text(json.dumps(squad(content)), encoding="utf-8")
    return folder


@pytest.fixture
def squad_folder(tmp_path: Path) -> Path:
    return write_squad(tmp_path / "squad")


@pytest.fixture
def shell(monkeypatch, capsys):
    """Run a command line; returns its exit code and what it wrote last."""

    def invoke(*args: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["lightning-kd", *map(str, args)])
        code: object = 0
        last = ""
        try:
            main()
        except SystemExit as stop:
            code = stop.code
            last = code if isinstance(code, str) else capsys.readouterr().err.strip()
        return code, last

    return invoke
