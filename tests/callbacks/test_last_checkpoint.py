"""SIGTERM, and runs that must not save; see also tests/training/test_resume.py."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_kd.callbacks import LastCheckpoint
from tests.helpers import data, module, trainer


class Terminate(Callback):
    """Sends SIGTERM to this process, as a cluster does at the time limit."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder, clinc_file, terminate=None, resume=None, **settings):
    callbacks = [LastCheckpoint(every_minutes=60), *([] if terminate is None else [Terminate(terminate)])]
    fit = trainer(folder, callbacks=callbacks, max_epochs=2, enable_checkpointing=True, **settings)
    fitted = module()
    if terminate is None:
        fit.fit(fitted, data(clinc_file), ckpt_path=resume)
    else:
        with pytest.raises(SIGTERMException, check=lambda stop: stop.code == 143):
            fit.fit(fitted, data(clinc_file), ckpt_path=resume)
    return fitted.student.state_dict()


MID_EPOCH, LAST_BATCH, ACCUMULATING = [(3, 1, 4), (12, 1, 13)], [(8, 1, 9), (7, 3, 3)], [(4, 3, 2)]  # of 9 batches


@pytest.mark.parametrize(("terminate", "accumulate", "steps"), MID_EPOCH + LAST_BATCH + ACCUMULATING)
def test_sigterm_saves_at_the_next_whole_step_and_the_run_continues_exactly(
    tmp_path, clinc_file, terminate, accumulate, steps
):
    expected = run(tmp_path / "whole", clinc_file, accumulate_grad_batches=accumulate)
    run(tmp_path, clinc_file, terminate=terminate, accumulate_grad_batches=accumulate)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == steps
    resumed = run(tmp_path, clinc_file, resume=last, accumulate_grad_batches=accumulate)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())


def test_a_save_leaves_one_file_and_replaces_the_one_before(tmp_path, clinc_file):
    trainer(tmp_path, callbacks=[LastCheckpoint(0)], enable_checkpointing=True).fit(module(), data(clinc_file))
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


class RecordSaves(LastCheckpoint):
    def __init__(self, every_minutes):
        super().__init__(every_minutes)
        self.saved = []

    def _save(self, trainer):
        self.saved.append(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


@pytest.mark.parametrize(("minutes", "accumulate", "batches"), [(0.0, 3, [3, 6, 9]), (5.0, 1, [9])])
def test_saves_when_due_but_not_mid_accumulation_and_at_the_end(tmp_path, clinc_file, minutes, accumulate, batches):
    last, settings = RecordSaves(minutes), {"accumulate_grad_batches": accumulate, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[last], **settings).fit(module(), data(clinc_file))
    assert last.saved == batches


def test_negative_interval():
    with pytest.raises(ValueError, match="every_minutes: must be >= 0, got -1"):
        LastCheckpoint(-1)
