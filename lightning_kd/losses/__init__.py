"""Losses: pure functions of tensors, each with a thin module."""

from lightning_kd.losses.attention_score import AttentionScoreLoss, attention_score_loss
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.losses.consistency import ConsistencyLoss, consistency_loss
from lightning_kd.losses.decoupled_kd import DecoupledKDLoss, decoupled_kd_loss
from lightning_kd.losses.dist import DISTLoss, dist_loss
from lightning_kd.losses.hard_label import HardLabelLoss, hard_label_loss
from lightning_kd.losses.hidden_state_cosine import HiddenStateCosineLoss, hidden_state_cosine_loss
from lightning_kd.losses.hidden_state_mse import HiddenStateMSELoss, hidden_state_mse_loss
from lightning_kd.losses.logit_mse import LogitMSELoss, logit_mse_loss
from lightning_kd.losses.self_attention_relation import SelfAttentionRelationLoss, self_attention_relation_loss
from lightning_kd.losses.soft_target import SoftTargetLoss, soft_target_loss

__all__ = [
    "AttentionScoreLoss",
    "ConsistencyLoss",
    "DISTLoss",
    "DecoupledKDLoss",
    "DistillationLoss",
    "HardLabelLoss",
    "HiddenStateCosineLoss",
    "HiddenStateMSELoss",
    "LogitMSELoss",
    "SelfAttentionRelationLoss",
    "SoftTargetLoss",
    "attention_score_loss",
    "consistency_loss",
    "decoupled_kd_loss",
    "dist_loss",
    "hard_label_loss",
    "hidden_state_cosine_loss",
    "hidden_state_mse_loss",
    "logit_mse_loss",
    "self_attention_relation_loss",
    "soft_target_loss",
]
