"""Fixture ``loss``: every loss on logits as a function (student, teacher, labels, mask) -> scalar."""

from functools import partial

import pytest

from lightning_kd.losses import decoupled_kd_loss, dist_loss, hard_label_loss, logit_mse_loss, soft_target_loss


def hard(student, teacher, labels, mask=None, label_smoothing=0.0):
    return hard_label_loss(student, labels, label_smoothing, mask)


def soft(student, teacher, labels, mask=None, beta=0.0, **options):
    return soft_target_loss(student, teacher, 2.0, beta, mask, **options)


def mse(student, teacher, labels, mask=None):
    return logit_mse_loss(student, teacher, mask)


def decoupled(student, teacher, labels, mask=None):
    return decoupled_kd_loss(student, teacher, labels, 2.0, 1.0, 3.0, mask)


def correlation(student, teacher, labels, mask=None, intra_weight=0.0):
    return dist_loss(student, teacher, 2.0, 1.0, intra_weight, mask)


LOSSES = {
    "correlation": correlation,
    "decoupled": decoupled,
    "hard": hard,
    "hard, smoothed": partial(hard, label_smoothing=0.1),
    "mse": mse,
    "soft, forward": soft,
    "soft, between": partial(soft, beta=0.1),
    "soft, near an end": partial(soft, beta=1e-6),
    "soft, reverse": partial(soft, beta=1.0),
    "soft, standardized": partial(soft, standardize=True),
    "soft, top 2": partial(soft, top_k=2),
    "soft, top 2, standardized, between": partial(soft, top_k=2, standardize=True, beta=0.5),
}
UNMASKED = {**LOSSES, "correlation, intra": partial(correlation, intra_weight=0.5)}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=UNMASKED.values(), ids=UNMASKED)
def unmasked_loss(request):
    """The same and the intra part of DIST, which accepts no mask."""
    return request.param
