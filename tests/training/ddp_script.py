"""Run by tests/training/test_ddp.py in two processes: ``python -m tests.training.ddp_script <folder with rows and a
teacher>``.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch.distributed import all_gather_object

from lightning_kd import QuestionAnswering
from lightning_kd.callbacks import (
    CompressionReport,
    LastCheckpoint,
    PredictionWriter,
    RunSummary,
    StudentExport,
    TemperatureProbe,
)
from lightning_kd.teachers.teacher import Teacher
from tests.helpers import STUDENT, best_checkpoint, data, module, squad_data, trainer

EPOCHS = 2
TWO_DEVICES = {"devices": 2, "strategy": "ddp", "enable_checkpointing": True}
FAST_STUDENT = {**STUDENT, "initializer_range": 0.2}


class KilledError(Exception):
    """Stands for SIGKILL."""


class Kill(Callback):
    """Near the end of the second epoch, on both devices: the clocks are compared after 16 steps of 18."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 8:
            raise KilledError


class Spy(Callback):
    """Collects the rows of each step and the validation scores of each epoch."""

    def __init__(self):
        self.rows, self.scores = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append(gather_ranks(batch["row_id"].tolist()))

    def on_train_epoch_end(self, trainer, pl_module):
        self.scores.append(pl_module.validation_scores())


def gather_ranks(value):
    parts = [None, None]
    all_gather_object(parts, value)
    return parts


def record_teacher_rows(work):
    """What ``work`` returns, and the rows each process asked its teacher for meanwhile."""
    rows, call = [], Teacher.__call__

    def spy(self, batch, requires=frozenset()):
        rows.extend(batch["row_id"].tolist())
        return call(self, batch, requires)

    Teacher.__call__ = spy
    try:
        return work(), gather_ranks(rows)
    finally:
        Teacher.__call__ = call


def differences(first, second):
    other = second.state_dict()
    return [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, other[name])]


def main(folder: Path) -> None:
    # 35 rows: 18 on each device, the last batch of the second device is nothing but padding
    rows = {"path": folder / "data_oos_plus.json", "batch_size": 4, "eval_batch_size": 17}
    teacher = str(folder / "teacher")

    def fit(name, *callbacks, resume=None, **settings):
        run = trainer(folder / name, callbacks=[LastCheckpoint(0.0), *callbacks], max_epochs=EPOCHS, **TWO_DEVICES)
        fitted = module(teacher, student=FAST_STUDENT, **settings)
        run.fit(fitted, data(**rows), ckpt_path=resume)
        return fitted

    spy = Spy()
    probe = TemperatureProbe(num_examples=1, top_k=3)
    whole = fit("whole", best_checkpoint(), StudentExport(), RunSummary(), CompressionReport(), probe, spy)
    network = whole.teacher.load()[0]
    try:
        fit("killed", Kill())
    except KilledError:
        resumed = fit("killed", resume=folder / "killed" / "checkpoints" / "last.ckpt")
    cold, teacher_rows_cold = record_teacher_rows(lambda: fit("cold", teacher_cache=str(folder / "cache")))
    warm, teacher_rows_warm = record_teacher_rows(lambda: fit("warm", teacher_cache=str(folder / "cache")))
    results = {
        "rows": spy.rows,
        "scores": spy.scores,
        "teacher scores": whole.teacher_scores,
        "teacher changed": gather_ranks(differences(network, Teacher(teacher, whole.task).load()[0])),
        "teacher trains": gather_ranks(any(p.requires_grad or p.grad is not None for p in network.parameters())),
        "teacher in train mode": gather_ranks(any(m.training for m in network.modules())),
        "student in the processes": gather_ranks(
            [float(p.detach().double().sum()) for p in whole.student.parameters()]
        ),
        "teacher rows": {"cold": teacher_rows_cold, "warm": teacher_rows_warm},
        "teacher loaded when warm": gather_ranks(warm.teacher.models[0].is_loaded),
        "warm differs": differences(cold.student, warm.student),
        "resumed differs": differences(whole.student, resumed.student),
        "validated": trainer(folder, **TWO_DEVICES).validate(whole, data(**rows), verbose=False)[0],
    }
    writer = PredictionWriter(str(folder / "predictions.csv"))
    trainer(folder, callbacks=[writer], **TWO_DEVICES).predict(whole, data(**rows))
    reader = module(task=QuestionAnswering(), student=FAST_STUDENT)
    questions = squad_data(folder / "squad")
    trainer(folder / "reader", max_epochs=2, **TWO_DEVICES).fit(reader, questions)
    results["questions validated"] = trainer(folder, **TWO_DEVICES).validate(reader, questions, verbose=False)[0]
    writer = PredictionWriter(str(folder / "predictions.json"))
    trainer(folder, callbacks=[writer], **TWO_DEVICES).predict(reader, questions)
    if whole.global_rank == 0:
        torch.save(reader.student.state_dict(), folder / "reader.pt")
        (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
