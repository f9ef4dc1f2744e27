"""Losses: each a pure function (tensors in, scalar out) with a thin module beside it."""

from lightning_kd.losses.base import DistillationLoss
from lightning_kd.losses.hard_label import HardLabelLoss, hard_label_loss
from lightning_kd.losses.logit_mse import LogitMSELoss, logit_mse_loss
from lightning_kd.losses.soft_target import SoftTargetLoss, soft_target_loss

__all__ = [
    "DistillationLoss",
    "HardLabelLoss",
    "LogitMSELoss",
    "SoftTargetLoss",
    "hard_label_loss",
    "logit_mse_loss",
    "soft_target_loss",
]
