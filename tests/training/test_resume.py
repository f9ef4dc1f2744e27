"""A run that is killed and resumed ends in the same weights, bit for bit."""

from functools import partial

import pytest

from lightning_kd import LazyAdamW, Schedule
from tests.helpers import assert_resumable, assert_same_weights, data, fit_and_resume, module

EPOCHS, BATCHES = 3, 9  # 72 examples in batches of 8
STEPS = EPOCHS * BATCHES
BY_EPOCHS, BY_STEPS = {"max_epochs": EPOCHS}, {"max_epochs": -1, "max_steps": STEPS}

make_module = partial(module, warmup_ratio=0.1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_resume_after_two_kills(tmp_path, clinc_file, workers, accumulate):
    make_data = partial(data, clinc_file, num_workers=workers)
    # mid-epoch twice; at an epoch's end and again at once; on an epoch's last batch; in the last epoch
    kills = ([4, 14], [8, 9], [9, 10], [17, 26])
    whole = assert_resumable(tmp_path, make_module, make_data, *kills, **BY_EPOCHS, accumulate_grad_batches=accumulate)
    assert whole.trainer.fit_loop.epoch_loop.total_batch_idx + 1 == STEPS
    assert whole.trainer.current_epoch == EPOCHS


def test_resume_with_max_steps(tmp_path, clinc_file):
    # resumed at an epoch's end Lightning begins such a run with an epoch of no batches
    kills = ([9], [9, 9, 9], [18, 18], [4, 9], [9, 14], [8, 17])
    whole = assert_resumable(tmp_path, make_module, partial(data, clinc_file), *kills, **BY_STEPS)
    assert whole.global_step == STEPS


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
    make_data = partial(data, clinc_file)
    whole = assert_resumable(tmp_path, partial(make_module, **settings), make_data, [4, 14, 18], **limits)
    if "loss_schedules" in settings:
        assert whole.losses["hard"].weight == pytest.approx((STEPS - 1) / STEPS)


def test_reloaded_dataloaders_continue(tmp_path, clinc_file):
    whole, reloading = (
        fit_and_resume(
            tmp_path / str(n),
            make_module,
            partial(data, clinc_file),
            **BY_EPOCHS,
            reload_dataloaders_every_n_epochs=n,
        )
        for n in (0, 1)
    )
    assert_same_weights(whole, reloading)
