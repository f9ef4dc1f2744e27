"""A run that is killed and resumed ends in the same weights, bit for bit."""

from functools import partial

import pytest
import torch

from lightning_kd import LazyAdamW, Schedule
from lightning_kd.callbacks import LastCheckpoint
from tests.helpers import KillAtBatch, KilledError, assert_same_weights, data, module, resume_after_kills, trainer

EPOCHS, BATCHES = 3, 9  # 72 examples in batches of 8
STEPS = EPOCHS * BATCHES
BY_EPOCHS, BY_STEPS = {"max_epochs": EPOCHS}, {"max_epochs": -1, "max_steps": STEPS}


def fit_function(clinc_file, workers=0, limits=BY_EPOCHS, accumulate=1, trainer_settings=None, **settings):
    """Return a function for ``resume_after_kills``; its result is the fitted module."""

    def fit(folder, callbacks, checkpoint):
        run_settings = {**limits, **(trainer_settings or {}), "accumulate_grad_batches": accumulate}
        fitted = module(**{"warmup_ratio": 0.1, **settings})
        run = trainer(folder, callbacks=callbacks, enable_checkpointing=True, **run_settings)
        run.fit(fitted, data(clinc_file, num_workers=workers), ckpt_path=checkpoint)
        return fitted

    return fit


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_resume_after_two_kills(tmp_path, clinc_file, workers, accumulate):
    fit = fit_function(clinc_file, workers, accumulate=accumulate)
    whole = resume_after_kills(fit, tmp_path / "whole")
    assert whole.trainer.fit_loop.epoch_loop.total_batch_idx + 1 == STEPS
    # mid-epoch twice; at an epoch's end and again at once; on an epoch's last batch; in the last epoch
    for kills in ([4, 14], [8, 9], [9, 10], [17, 26]):
        resumed = resume_after_kills(fit, tmp_path / f"{kills[0]}-{kills[1]}", kills)
        assert resumed.trainer.current_epoch == EPOCHS
        assert resumed.global_step == whole.global_step
        assert_same_weights(whole, resumed)


@pytest.mark.parametrize("kills", [[9], [9, 9, 9], [18, 18], [4, 9], [9, 14], [8, 17]])
def test_resume_with_max_steps(tmp_path, clinc_file, kills):
    # resumed at an epoch's end Lightning begins such a run with an epoch of no batches
    fit = fit_function(clinc_file, limits=BY_STEPS)
    whole = resume_after_kills(fit, tmp_path / "whole")
    resumed = resume_after_kills(fit, tmp_path / "killed", kills)
    assert resumed.global_step == STEPS
    assert_same_weights(whole, resumed)


SCHEDULED = {"loss_schedules": {"hard": {"weight": Schedule(0, 1)}}, "lr_scheduler": None, "warmup_ratio": 0.0}


@pytest.mark.parametrize(
    ("limits", "settings"),
    [
        (BY_EPOCHS, {"optimizer": partial(LazyAdamW, lr=1e-2)}),
        (BY_EPOCHS, SCHEDULED),
        (BY_STEPS, SCHEDULED),
    ],
    ids=["lazy_adamw", "loss_schedules", "loss_schedules_by_steps"],
)
def test_resume_with_optimizer_and_schedules(tmp_path, clinc_file, limits, settings):
    fit = fit_function(clinc_file, limits=limits, **settings)
    whole = resume_after_kills(fit, tmp_path / "whole")
    resumed = resume_after_kills(fit, tmp_path / "killed", [4, 14, 18])
    assert_same_weights(whole, resumed)
    if "loss_schedules" in settings:
        assert resumed.losses["hard"].weight == pytest.approx((STEPS - 1) / STEPS)


def test_reloaded_dataloaders_continue(tmp_path, clinc_file):
    whole = resume_after_kills(fit_function(clinc_file), tmp_path / "whole")
    reloading = fit_function(clinc_file, trainer_settings={"reload_dataloaders_every_n_epochs": 1})
    assert_same_weights(whole, resume_after_kills(reloading, tmp_path / "reloading"))


def test_seed_is_restored_from_the_checkpoint(tmp_path, clinc_file):
    first = trainer(tmp_path, callbacks=[LastCheckpoint(0.0), KillAtBatch(5)], max_epochs=1, enable_checkpointing=True)
    with pytest.raises(KilledError):
        first.fit(module(), data(clinc_file))
    second = trainer(tmp_path, max_epochs=1)
    datamodule, resumed = data(clinc_file), module()
    torch.manual_seed(999)
    second.fit(resumed, datamodule, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert datamodule.state_dict()["seed"] == first.datamodule.state_dict()["seed"]
    assert resumed._seed == first.lightning_module._seed != 999
