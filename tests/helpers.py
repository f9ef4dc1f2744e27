"""Tiny models, data sets and runs that the tests share."""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lightning_kd import (
    CLINC150DataModule,
    DistillationModule,
    MaskedLMDataModule,
    SequenceClassification,
    SQuADDataModule,
    SST2DataModule,
)
from lightning_kd.callbacks import LastCheckpoint
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "lightning_kd" / "data" / "quickstart"
TINY_BERT = QUICKSTART / "tiny-bert"
LABELS = ["greet", "leave", "oos"]
WORDS = "water desk paper plant leak room hello goodbye good morning france later".split()  # noqa: SIM905


def tiny_bert(labels=LABELS, layers=2, seed=0, model_class=BertForSequenceClassification, **config):
    """Return a BERT of 16 dimensions with seeded random weights, by default a classifier."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    settings = {"vocab_size": 1200, "num_hidden_layers": layers, **sizes, **config}
    names = {} if labels is None else {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    return model_class(BertConfig(**settings, **names))


def save_model(model, folder: Path, tokenizer=None) -> str:
    model.save_pretrained(folder)
    (tokenizer or AutoTokenizer.from_pretrained(TINY_BERT)).save_pretrained(folder)
    return str(folder)


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def roberta_tokenizer(texts, vocab_size=400) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=60,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def tiny_roberta(labels, tokenizer, seed=0, model_class=RobertaForSequenceClassification, **config):
    """Return a RoBERTa of 2 layers and 16 dimensions with seeded random weights."""
    torch.manual_seed(seed)
    names = {} if labels is None else {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    settings = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}
    return model_class(RobertaConfig(**sizes, **settings, **names, **config))


def save_roberta(model, tokenizer, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES = {
    "bert": DROPOUT,
    "roberta": DROPOUT,
    "xlm-roberta": DROPOUT,
    "electra": {**DROPOUT, "embedding_size": 8},
    "mpnet": DROPOUT,
    "distilbert": {"dropout": 0.0, "attention_dropout": 0.0},
}
TEXT = torch.tensor([[2, 9, 8, 7, 30, 12, 3], [2, 40, 41, 42, 43, 44, 3]])


def random_model(kind, layers, seed, auto_class=AutoModelForMaskedLM, **changes):
    names = {"distilbert": {"hidden_size": "dim", "intermediate_size": "hidden_dim", "num_attention_heads": "n_heads"}}
    fields = {
        names.get(kind, {}).get(name, name): value for name, value in {**SIZES, **FAMILIES[kind], **changes}.items()
    }
    depth = {"n_layers" if kind == "distilbert" else "num_hidden_layers": layers}
    torch.manual_seed(seed)
    model = auto_class.from_config(AutoConfig.for_model(kind, **fields, **depth)).eval()
    with torch.no_grad():  # biases, norms and padding too, which are initialized to zeros and ones
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def clinc_rows() -> dict:
    """Return examples in CLINC150's layout that a small model learns in a few steps."""
    words = ["water", "desk", "paper", "plant", "leak", "room"]
    greetings = [[f"hello {word} good morning to you", "greet"] for word in words]
    farewells = [[f"goodbye {word} see you later then", "leave"] for word in words]
    others = [[f"what is the {word} of france", "oos"] for word in words]
    rows = {}
    for split, times in (("train", 4), ("val", 2), ("test", 2)):
        rows[split] = (greetings + farewells) * times
        rows[f"oos_{split}"] = others * times
    return rows


def squad(questions: list[dict]) -> dict:
    """Return SQuAD's layout; each question has ``id``, ``question``, ``context`` and ``answers`` (texts)."""
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
    """Return questions whose answer is the word after "the"."""
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


def write_rows(folder):
    """Write an odd number of examples to each split."""
    rows = {name: part[:-1] if name in ("train", "val", "test") else part for name, part in clinc_rows().items()}
    file = folder / "data_oos_plus.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


STUDENT = {
    "config": str(TINY_BERT),
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
IGNORE_CHECKS = ["weak_teacher"]


def data(path: Any, **settings: Any) -> CLINC150DataModule:
    return CLINC150DataModule(str(path), **{"tokenizer": str(TINY_BERT), "batch_size": 8, "max_length": 32, **settings})


def squad_data(path: Any, **settings: Any) -> SQuADDataModule:
    """Return a DataModule whose contexts are split into two or three windows."""
    defaults = {"tokenizer": str(TINY_BERT), "batch_size": 4, "eval_batch_size": 3, "max_length": 20, "stride": 3}
    return SQuADDataModule(str(path), **{**defaults, **settings})


def sst2_data(folder: Path) -> SST2DataModule:
    """Write a few sentences in GLUE's format, whose test split has no labels."""
    folder.mkdir()
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("sentence\tlabel\n" + "good\t1\nbad\t0\n" * 4)
    (folder / "test.tsv").write_text("index\tsentence\n0\tgood\n")
    return SST2DataModule(str(folder), str(TINY_BERT), batch_size=2)


def module(teacher: Any = None, **settings: Any) -> DistillationModule:
    losses = {"hard": HardLabelLoss(0.5), "soft": SoftTargetLoss(0.5, 2.0)} if teacher else {"hard": HardLabelLoss()}
    seed_everything(3, verbose=False)
    defaults = {
        "task": SequenceClassification(),
        "student": dict(STUDENT),
        "losses": losses,
        "optimizer": partial(torch.optim.AdamW, lr=1e-2),
        "ignore_checks": IGNORE_CHECKS,
    }
    return DistillationModule(teacher=teacher, **{**defaults, **settings})


def trainer(folder: Any, **settings: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    defaults = {"default_root_dir": str(folder), "max_epochs": 1, "enable_checkpointing": False}
    return Trainer(**{**quiet, **defaults, **settings})


def mlm_data(corpus, **settings):
    defaults = {"tokenizer": str(TINY_BERT), "batch_size": 4, "max_length": 16, "line_by_line": True}
    return MaskedLMDataModule(str(corpus), **{**defaults, **settings})


class MaliciousObject:
    """Creates a directory when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class KilledError(Exception):
    """Simulates SIGKILL: nothing is saved."""


class KillAtBatch(Callback):
    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            raise KilledError


def fit_and_resume(folder, make_module, make_data, kills=(), make_callbacks=list, **settings):
    """Fit a module, kill the run at each of the batches and resume it; return the fitted module."""
    last = folder / "checkpoints" / "last.ckpt"
    for kill in (*kills, None):
        callbacks = [*make_callbacks(), LastCheckpoint(0.0), *([] if kill is None else [KillAtBatch(kill)])]
        run = trainer(folder, callbacks=callbacks, enable_checkpointing=True, **settings)
        fitted, checkpoint = make_module(), None
        if last.exists():
            checkpoint = last
            torch.manual_seed(999)  # the checkpoint restores the seeds
        with contextlib.nullcontext() if kill is None else pytest.raises(KilledError):
            run.fit(fitted, make_data(), ckpt_path=checkpoint)
    return fitted


def assert_resumable(folder, make_module, make_data, *kills, **settings):
    """Assert that each of several runs, killed at some batches and resumed, ends like one that is not killed.

    Args:
        folder: Folder of the runs.
        make_module: Returns a new module.
        make_data: Returns a new DataModule.
        kills: For each run, the batches at which it is killed.
        settings: Further arguments of ``fit_and_resume``.

    Returns:
        The module of the run that is not killed.
    """
    whole = fit_and_resume(folder / "whole", make_module, make_data, **settings)
    for batches in kills:
        name = "-".join(map(str, batches))
        resumed = fit_and_resume(folder / name, make_module, make_data, batches, **settings)
        assert (resumed.global_step, resumed.current_epoch) == (whole.global_step, whole.current_epoch)
        assert_same_weights(whole, resumed)
    return whole


def assert_same_weights(first, second) -> None:
    """Both are modules or state dicts."""
    first, second = (x.state_dict() if isinstance(x, torch.nn.Module) else x for x in (first, second))
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def assert_same_scores_when_reloaded(fitted, make_data, folder: Path) -> None:
    """Fit a module, load it from its checkpoint and compare the validation scores."""
    run = trainer(folder)
    run.fit(fitted, make_data())
    run.save_checkpoint(folder / "x.ckpt")
    loaded = DistillationModule.load_from_checkpoint(folder / "x.ckpt")
    scores = [trainer(folder).validate(m, make_data(), verbose=False)[0] for m in (fitted, loaded)]
    assert scores[0] == scores[1]


class TeacherCalls:
    """The batches of row ids that teachers were called with, how many were loaded, and the dtypes of their logits."""

    def __init__(self):
        self.dtypes = set()
        self.reset()

    def reset(self):
        self.batches, self.loaded = [], 0

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]

    @property
    def row_counts(self):
        return Counter(row for batch in self.batches for row in batch if row >= 0)


def cache_folders(cache):
    """Return the folder of a teacher cache for each split."""
    metadata = {
        folder: json.loads((folder / "metadata.json").read_text(encoding="utf-8")) for folder in cache.iterdir()
    }
    return {content["split"]: folder for folder, content in metadata.items()}


def version_dir(tmp_path, number=0):
    return tmp_path / "lightning_logs" / f"version_{number}"


def fill_disk(disk, free_bytes=0):
    """Fill the disk except for ``free_bytes``."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    with ballast.open("r+b") as stream:
        stream.truncate(ballast.stat().st_size - free_bytes)


def python_module(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


class FlipClassifierHead(Callback):
    """Turns the student's head around before the last epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == trainer.max_epochs - 1:
            with torch.no_grad():
                pl_module.student.classifier.weight.mul_(-1)
                pl_module.student.classifier.bias.mul_(-1)


def best_checkpoint(**settings):
    return ModelCheckpoint(**{"monitor": "val/accuracy", "mode": "max", "filename": "best", **settings})


def run_with_degraded_last_epoch(folder, clinc_file, *callbacks, teacher=None, **settings):
    """Fit a student whose last epoch is worse than its best one; return trainer and module."""
    run = trainer(folder, callbacks=[*callbacks, FlipClassifierHead()], max_epochs=8, enable_checkpointing=True)
    student = tiny_bert(layers=1, seed=2, initializer_range=0.2).config.to_dict()
    fitted = module(teacher, **{"student": {"config": student}, **settings})
    run.fit(fitted, data(clinc_file))
    return run, fitted
