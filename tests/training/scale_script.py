"""Run in two processes by tests/training/test_scale.py: ``python -m tests.training.scale_script <folder>``.

Each run trains a few steps with plain SGD and no dropout, so that the weights show the gradients.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.distributed.fsdp import FSDPModule
from transformers import BertForMaskedLM

from lightning_kd import (
    DistillationModule,
    FSDP2Strategy,
    LazyAdamW,
    MaskedLM,
    MaskedLMDataModule,
    Schedule,
    TextClassificationDataModule,
)
from lightning_kd.callbacks import LastCheckpoint, RunSummary, StudentExport
from lightning_kd.data import TfIdfReplacement
from lightning_kd.losses import (
    AttentionScoreLoss,
    ConsistencyLoss,
    DecoupledKDLoss,
    DistillationLoss,
    HardLabelLoss,
    HiddenStateMSELoss,
    SelfAttentionRelationLoss,
    SoftTargetLoss,
)
from lightning_kd.models.sharding import full_state_dict
from tests.helpers import STUDENT, TINY_BERT, best_checkpoint, module, save_model, tiny_bert, trainer

GLOBAL_BATCH_SIZE = 8
"""Examples of a step, over all devices."""

BUILDS = ("classifier", "masked")
RUNS = {"ddp": ("masked", "consistent", "classifier")}
RUNS["fsdp2"] = ("relations", *RUNS["ddp"])  # DDP raises if no loss reads the student's head
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
LAZY = partial(LazyAdamW, lr=1e-2, eps=1e-2)
ADAM = partial(torch.optim.AdamW, lr=1e-2, eps=1e-2, fused=True)  # a small eps amplifies rounding errors


def write_inputs(folder: Path) -> None:
    """Write texts of several lengths, two in three of them unlabeled; texts to mask; two teachers."""
    words = ["water", "desk", "paper", "plant", "leak", "room"]
    texts = [(f"hello {word} {'good morning ' * (n % 5)}to you", "greet") for n, word in enumerate(words * 4)]
    texts += [(f"goodbye {word} see you {'later ' * (n % 4)}then", "leave") for n, word in enumerate(words * 4)]
    rows = {"train": [(text, label if n % 3 == 0 else "") for n, (text, label) in enumerate(texts)]}
    rows["validation"] = texts[1:-10:2]
    for split, lines in rows.items():
        table = "\n".join(["text,label", *(f"{text},{label}" for text, label in lines)])
        (folder / f"{split}.csv").write_text(table, encoding="utf-8")
    (folder / "corpus").mkdir()
    for split in rows:
        (folder / "corpus" / f"{split}.txt").write_text("\n".join(text for text, _ in texts), encoding="utf-8")
    save_model(tiny_bert(["greet", "leave"], layers=3, seed=1, initializer_range=0.2), folder / "teacher")
    teacher = tiny_bert(None, layers=3, seed=1, model_class=BertForMaskedLM, initializer_range=0.2)
    save_model(teacher, folder / "masked")


def make_losses(name: str) -> dict[str, DistillationLoss]:
    """Return the losses of a run."""
    if name == "classifier":
        return {
            "hard": HardLabelLoss(),
            "soft": SoftTargetLoss(1.0, 2.0),
            "hidden": HiddenStateMSELoss(0.1, {1: 2}),  # with a projection
            "attention": AttentionScoreLoss(0.1),
            "relation": SelfAttentionRelationLoss(0.5, 2),
        }
    if name == "relations":  # reads only queries, keys and values: no gradient comes through the output of a layer
        return {"relation": SelfAttentionRelationLoss(1.0, 2)}
    if name == "consistent":
        return {
            "hard": HardLabelLoss(),
            "same": ConsistencyLoss(0.5, temperature=0.8, confidence=0.0),
            "decoupled": DecoupledKDLoss(0.5, 2.0, nontarget_weight=0.0),
        }
    return {"hard": HardLabelLoss(), "soft": SoftTargetLoss(1.0, 2.0)}


class Runs:
    """Runs on two devices (kind: ddp, fsdp2, or distributed = fsdp2 with distributed checkpoints) or on one (None).

    The runs: ``classifier``, with unlabeled examples and a projection; ``relations``; ``consistent``, with augmented
    examples, missing labels, and a teacher that reads a prompt; ``masked``, whose word embeddings are tied to the
    weights of its head; ``cached``.
    """

    def __init__(self, folder: Path, kind: str | None = None) -> None:
        self.folder = folder
        self.kind = kind
        self.num_devices = 1 if kind is None else 2

    def trainer(self, name: str, **settings: object) -> Trainer:
        strategies = {
            None: "auto",
            "ddp": "ddp",
            "fsdp2": FSDP2Strategy(),
            "distributed": FSDP2Strategy(save_distributed_checkpoint=True),
        }
        devices = {"devices": self.num_devices, "strategy": strategies[self.kind]}
        return trainer(self.folder / name, gradient_clip_val=1.0, **devices, **settings)

    def data(self, name: str, batch_size: int = GLOBAL_BATCH_SIZE) -> LightningDataModule:
        settings = {"tokenizer": str(TINY_BERT), "batch_size": batch_size // self.num_devices}
        if name == "masked":
            return MaskedLMDataModule(str(self.folder / "corpus"), max_length=16, line_by_line=True, **settings)
        if name == "consistent":
            settings |= {"augmentation": TfIdfReplacement(0.5), "teacher_prompt": "then {text} later"}
        return TextClassificationDataModule(str(self.folder), max_length=32, allow_unlabeled=True, **settings)

    def module(self, name: str, **settings: object) -> DistillationModule:
        overrides = {"losses": make_losses(name), "optimizer": SGD, "lr_scheduler": None, **settings}
        if name == "masked":
            student = {"config": str(self.folder / "masked"), **NO_DROPOUT, "num_hidden_layers": 1}
            return module(str(self.folder / "masked"), task=MaskedLM(), student=student, **overrides)
        if name == "consistent":
            overrides["loss_schedules"] = {"hard": {"tsa_threshold": Schedule(0.3, 1)}}
        student = {**STUDENT, **NO_DROPOUT, "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
        return module(str(self.folder / "teacher"), student=student, **overrides)

    def fit(self, name: str) -> DistillationModule:
        fitted, accumulate = self.module(name), 2 if name in ("classifier", "consistent") else 1
        self.trainer(name, accumulate_grad_batches=accumulate, max_steps=3).fit(fitted, self.data(name))
        return fitted

    def fit_cached(self, cache: str, optimizer: object, steps: int = 10, batch_size: int = 2) -> DistillationModule:
        """One example per step on each of two devices: sometimes only one of them is cached."""
        fitted = self.module("cached", optimizer=optimizer, teacher_cache=str(self.folder / cache))
        self.trainer("cached", max_steps=steps).fit(fitted, self.data("cached", batch_size))
        return fitted

    def fit_epoch(self, name: str, folder: str, resume: Path | None = None) -> DistillationModule:
        """Run the first of two epochs, or the second from a checkpoint."""
        fitted = self.module(name, optimizer=ADAM, lr_scheduler="linear")
        callbacks = [
            LastCheckpoint(60),
            best_checkpoint(monitor=f"val/{fitted.task.monitor}"),
            StudentExport(),
            RunSummary(),
            StopAfterEpoch(),
        ]
        run = self.trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=callbacks)
        run.fit(fitted, self.data(name), ckpt_path=resume)
        return fitted

    def scores(self, name: str, fitted: DistillationModule) -> dict[str, float]:
        return self.trainer("validated").validate(fitted, self.data(name), verbose=False)[0]


class StopAfterEpoch(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def run_on_two_processes(folder: Path, kind: str) -> dict[str, object]:
    """Return the values that the test compares; the folder has the checkpoints of one process after an epoch."""
    runs = Runs(folder, kind)
    results: dict[str, object] = {}
    if kind != "distributed":
        for name in RUNS[kind]:
            fitted = runs.fit(name)
            results[name], results[f"{name} scores"] = full_state_dict(fitted), runs.scores(name, fitted)
        model = fitted.teacher.load()[0]
        results["teacher"] = full_state_dict(model)
        results["teacher is sharded"] = isinstance(model, FSDPModule)
        results["teacher trains"] = model.training or any(p.requires_grad for p in model.parameters())
        for name in BUILDS:
            resumed = runs.fit_epoch(name, f"{kind} from one {name}", last_checkpoint(folder / f"one {name}"))
            results[f"{name} from one"] = full_state_dict(resumed)
        cached = runs.fit_cached(f"{kind} cache", LAZY if kind == "ddp" else SGD)
        results["cached"] = full_state_dict(cached)
        store = cached.cached_teachers["train"].store
        store.refresh()  # with the other process's examples
        results["cached examples"] = len(store)
    for name in BUILDS:
        runs.fit_epoch(name, f"{kind} {name}")
        resumed = runs.fit_epoch(name, f"{kind} on {name}", last_checkpoint(folder / f"{kind} {name}"))
        results[f"{name} from two"] = full_state_dict(resumed)
    return results


def main(folder: Path) -> None:
    for kind in ("ddp", "fsdp2", "distributed"):
        results = run_on_two_processes(folder, kind)
        if torch.distributed.get_rank() == 0:
            torch.save(results, folder / f"{kind}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
