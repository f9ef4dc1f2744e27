"""A run that is killed and resumed ends in the same weights, bit for bit."""

from functools import partial
from typing import ClassVar

import pytest
import torch

from lightning_kd import LazyAdamW
from lightning_kd.callbacks import LastCheckpoint
from tests.helpers import KillAtBatch, KilledError, data, module, trainer

EPOCHS, BATCHES = 3, 9  # 72 rows in batches of 8


BY_EPOCHS, BY_STEPS = {"max_epochs": EPOCHS}, {"max_epochs": -1, "max_steps": EPOCHS * BATCHES}


def run(
    folder,
    clinc_file,
    workers,
    accumulate,
    kill=None,
    resume=None,
    every_minutes=0.0,
    limits=BY_EPOCHS,
    **module_kwargs,
):
    callbacks = [LastCheckpoint(every_minutes), *([KillAtBatch(kill)] if kill is not None else [])]
    settings = {**limits, "accumulate_grad_batches": accumulate, "enable_checkpointing": True}
    fit = trainer(folder, callbacks=callbacks, **settings)
    fitted = module(warmup_ratio=0.1, **module_kwargs)
    try:
        fit.fit(fitted, data(clinc_file, num_workers=workers), ckpt_path=resume)
    except KilledError:
        assert kill is not None
    return fit, fitted.student.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_resume_after_two_kills(tmp_path, clinc_file, workers, accumulate):
    whole, expected = run(tmp_path / "whole", clinc_file, workers, accumulate)
    assert whole.fit_loop.epoch_loop.total_batch_idx + 1 == EPOCHS * BATCHES
    # mid-epoch twice; at an epoch's end and again at once; on an epoch's last batch; in the last epoch
    for kills in ([4, 14], [8, 9], [9, 10], [17, 26]):
        folder = tmp_path / f"{kills[0]}-{kills[1]}"
        last = folder / "checkpoints" / "last.ckpt"
        for kill in (*kills, None):
            fit, weights = run(folder, clinc_file, workers, accumulate, kill, last if last.exists() else None)
        assert fit.current_epoch == EPOCHS
        assert fit.global_step == whole.global_step
        for name, tensor in expected.items():
            assert torch.equal(tensor, weights[name]), f"{name} after kills at {kills}"


def test_resume_with_lazy_adamw(tmp_path, clinc_file):
    optimizer = partial(LazyAdamW, lr=1e-2)
    _, expected = run(tmp_path / "whole", clinc_file, 0, 1, optimizer=optimizer)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    for kill in (4, 14, None):
        resume = last if last.exists() else None
        _, weights = run(tmp_path / "killed", clinc_file, 0, 1, kill, resume, optimizer=optimizer)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("kills", [[9], [9, 9, 9], [18, 18], [4, 9], [9, 14], [8, 17]])
def test_resume_with_max_steps(tmp_path, clinc_file, kills):
    # resumed at an epoch's end Lightning begins such a run with an epoch of no batches
    _, expected = run(tmp_path / "whole", clinc_file, 0, 1, limits=BY_STEPS)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    for kill in (*kills, None):
        resume = last if last.exists() else None
        fit, weights = run(tmp_path / "killed", clinc_file, 0, 1, kill, resume, limits=BY_STEPS)
    assert fit.global_step == EPOCHS * BATCHES
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


def test_reloaded_dataloaders_continue(tmp_path, clinc_file):
    _, expected = run(tmp_path / "whole", clinc_file, 0, 1)
    _, weights = run(tmp_path / "anew", clinc_file, 0, 1, limits={**BY_EPOCHS, "reload_dataloaders_every_n_epochs": 1})
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


def test_seed_is_restored_from_the_checkpoint(tmp_path, clinc_file):
    """Without seed_everything the seed comes from the checkpoint."""
    last = tmp_path / "checkpoints" / "last.ckpt"
    first, _ = run(tmp_path, clinc_file, 0, 1, kill=5)
    torch.manual_seed(999)
    second = trainer(tmp_path, callbacks=[LastCheckpoint(0.0)], max_epochs=1, enable_checkpointing=True)
    rows = data(clinc_file)
    resumed = module(warmup_ratio=0.1)
    torch.manual_seed(999)
    second.fit(resumed, rows, ckpt_path=last)
    assert rows.state_dict()["seed"] == first.datamodule.state_dict()["seed"]
    assert resumed._seed == first.lightning_module._seed


def test_no_checkpoint_mid_accumulation_or_on_the_last_batch(tmp_path, clinc_file):
    class Recorder(LastCheckpoint):
        saved: ClassVar[list[int]] = []

        def _save(self, trainer):
            self.saved.append(trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    settings = {"accumulate_grad_batches": 3, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[Recorder(0.0)], **settings).fit(module(), data(clinc_file))
    assert Recorder.saved == [3, 6, 9]  # the last one at the end of the epoch


def test_interval_is_kept(tmp_path, clinc_file):
    class Recorder(LastCheckpoint):
        saved = 0

        def _save(self, trainer):
            Recorder.saved += 1

    trainer(tmp_path, callbacks=[Recorder(5.0)], enable_checkpointing=True).fit(module(), data(clinc_file))
    assert Recorder.saved == 1  # the end of the epoch; five minutes have not passed


def test_negative_interval():
    with pytest.raises(ValueError, match="every_minutes: must be >= 0, got -1"):
        LastCheckpoint(-1)
