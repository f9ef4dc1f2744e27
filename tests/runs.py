"""Short real runs for the tests."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_kd import CLINC150DataModule, DistillationModule, SequenceClassification, SQuADDataModule
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss
from tests.conftest import TINY_BERT

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
    """Contexts are cut into two or three parts."""
    defaults = {"tokenizer": str(TINY_BERT), "batch_size": 4, "eval_batch_size": 3, "max_length": 20, "stride": 3}
    return SQuADDataModule(str(path), **{**defaults, **settings})


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
