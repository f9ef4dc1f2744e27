"""Run in two processes by tests/training/test_ddp.py: ``python -m tests.training.ddp_script <folder>``."""

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
from tests.helpers import STUDENT, KillAtBatch, KilledError, best_checkpoint, data, module, squad_data, trainer

EPOCHS = 2
TWO_DEVICES = {"devices": 2, "strategy": "ddp", "enable_checkpointing": True}
FAST_STUDENT = {**STUDENT, "initializer_range": 0.2}


class Spy(Callback):
    """Records the examples of each step and the validation scores of each epoch."""

    def __init__(self):
        self.row_ids, self.scores = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.row_ids.append(gather_ranks(batch["row_id"].tolist()))

    def on_train_epoch_end(self, trainer, pl_module):
        self.scores.append(pl_module.validation_scores())


def gather_ranks(value):
    parts = [None, None]
    all_gather_object(parts, value)
    return parts


def record_teacher_examples(work):
    """Return the result of ``work``, and the examples that the teacher read meanwhile in each process."""
    row_ids, call = [], Teacher.__call__

    def spy(self, batch, requires=frozenset()):
        row_ids.extend(batch["row_id"].tolist())
        return call(self, batch, requires)

    Teacher.__call__ = spy
    try:
        return work(), gather_ranks(row_ids)
    finally:
        Teacher.__call__ = call


def differences(first, second):
    other = second.state_dict()
    return [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, other[name])]


def main(folder: Path) -> None:
    # 35 examples: 18 on each device, the last batch of the second device is only padding
    data_settings = {"path": folder / "data_oos_plus.json", "batch_size": 4, "eval_batch_size": 17}
    teacher = str(folder / "teacher")

    def fit(name, *callbacks, resume=None, **settings):
        run = trainer(folder / name, callbacks=[LastCheckpoint(0.0), *callbacks], max_epochs=EPOCHS, **TWO_DEVICES)
        fitted = module(teacher, student=FAST_STUDENT, **settings)
        run.fit(fitted, data(**data_settings), ckpt_path=resume)
        return fitted

    spy = Spy()
    probe = TemperatureProbe(num_examples=1, top_k=3)
    whole = fit("whole", best_checkpoint(), StudentExport(), RunSummary(), CompressionReport(), probe, spy)
    model = whole.teacher.load()[0]
    try:
        fit("killed", KillAtBatch(17))  # of 18; LastCheckpoint compares the clocks of the ranks after 16
    except KilledError:
        resumed = fit("killed", resume=folder / "killed" / "checkpoints" / "last.ckpt")
    cold, teacher_examples_cold = record_teacher_examples(lambda: fit("cold", teacher_cache=str(folder / "cache")))
    warm, teacher_examples_warm = record_teacher_examples(lambda: fit("warm", teacher_cache=str(folder / "cache")))
    results = {
        "row_ids": spy.row_ids,
        "scores": spy.scores,
        "teacher scores": whole.teacher_scores,
        "teacher changed": gather_ranks(differences(model, Teacher(teacher, whole.task).load()[0])),
        "teacher trains": gather_ranks(any(p.requires_grad or p.grad is not None for p in model.parameters())),
        "teacher in train mode": gather_ranks(any(m.training for m in model.modules())),
        "student in the processes": gather_ranks(
            [float(p.detach().double().sum()) for p in whole.student.parameters()]
        ),
        "teacher examples": {"cold": teacher_examples_cold, "warm": teacher_examples_warm},
        "teacher loaded when warm": gather_ranks(warm.teacher.models[0].is_loaded),
        "warm differs": differences(cold.student, warm.student),
        "resumed differs": differences(whole.student, resumed.student),
        "validated": trainer(folder, **TWO_DEVICES).validate(whole, data(**data_settings), verbose=False)[0],
    }
    writer = PredictionWriter(str(folder / "predictions.csv"))
    trainer(folder, callbacks=[writer], **TWO_DEVICES).predict(whole, data(**data_settings))
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
