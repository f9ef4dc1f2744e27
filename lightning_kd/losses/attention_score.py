"""Distance between the attention scores."""

import math

import torch
from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, mean_over_heads
from lightning_kd.losses.layer_map import LayerMap, check_layer_map, layer_index
from lightning_kd.outputs import QKV, ModelDims, Outputs


def attention_score_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the attention scores before the softmax, mean over heads and pairs of tokens.

    Jiao et al. 2020, TinyBERT, equation 7.

    Args:
        student: (B, heads, L, L), any floating dtype; computed in float32.
        teacher: (B, heads, L, L).
        mask: (B, L), True = the position counts, as the one that attends and as the one attended to; None = all.

    Returns:
        Float32 scalar; 0 with zero gradient if no pair is left.

    Example:
        >>> import torch
        >>> attention_score_loss(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
        tensor(1.)
    """
    student, teacher = student.float(), teacher.float()
    if mask is None:
        return (student - teacher).square().mean()
    pair_mask = (mask.bool().unsqueeze(1) & mask.bool().unsqueeze(2)).unsqueeze(1)
    # padding may hold anything, and the gradient of inf - inf is NaN: make both equal before subtracting
    student, teacher = student.masked_fill(~pair_mask, 0.0), teacher.masked_fill(~pair_mask, 0.0)
    return (student - teacher).square().mean(dim=1).sum() / pair_mask.sum().clamp(min=1)


def attention_scores(qkv: QKV) -> Tensor:
    """Scaled products of queries and keys, (B, heads, L, L), float32."""
    query, key = (
        vectors.float().unflatten(-1, (qkv.num_attention_heads, -1)).transpose(1, 2) for vectors in (qkv.query, qkv.key)
    )
    with torch.autocast(query.device.type, enabled=False):
        scores: Tensor = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    return scores


class AttentionScoreLoss(DistillationLoss):
    """Squared difference of the student's and the teacher's attention scores.

    The scores are computed from queries and keys, so any attention implementation does. Scores that depend on positions
    as well (MPNet) are taken without that part.

    Args:
        weight: Factor of this loss in the total, >= 0.
        layer_map: Student's layer to teacher's, 1 = the first, negative from the end; the mean over the pairs. Null =
            the last of both.

    Raises:
        ValueError: Before the first step, if the numbers of heads differ or a layer is off the end.
    """

    requires = frozenset({"qkv"})

    def __init__(self, weight: float = 1.0, layer_map: LayerMap | None = None) -> None:
        super().__init__(weight)
        self.layer_map = layer_map

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check heads and layers."""
        check_layer_map(self.layer_map or {}, student, teacher, type(self).__name__, min_index=1)
        if student.num_attention_heads != teacher.num_attention_heads:
            raise ValueError(
                f"AttentionScoreLoss: the student has {student.num_attention_heads} attention heads and the teacher "
                f"{teacher.num_attention_heads}; give it as many, or use SelfAttentionRelationLoss, which takes any "
                f"number"
            )

    def num_elements(self, student: Outputs) -> Tensor:
        """The pairs of tokens."""
        return (
            super().num_elements(student)
            if student.token_mask is None
            else student.token_mask.sum(dim=1).square().sum()
        )

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Mean over the pairs of ``attention_score_loss``."""
        assert teacher is not None  # promised by requires_teacher
        assert student.qkv is not None  # promised by requires
        assert teacher.qkv is not None
        losses = []
        for student_layer, teacher_layer in (self.layer_map or {-1: -1}).items():
            student_qkv, teacher_qkv = student.qkv[layer_index(student_layer)], teacher.qkv[layer_index(teacher_layer)]
            losses.append(
                attention_score_loss(attention_scores(student_qkv), attention_scores(teacher_qkv), student.token_mask)
            )
        return mean_over_heads(losses)
