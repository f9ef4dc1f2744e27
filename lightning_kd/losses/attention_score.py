"""Mean squared error of attention scores (before the softmax)."""

import math

import torch
from torch import Tensor

from lightning_kd.losses.layer_pairs import LayerPairLoss
from lightning_kd.outputs import QKV, ModelDims, Outputs


def attention_score_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the squared error of the attention scores before the softmax, averaged over heads and pairs of tokens.

    Jiao et al. 2020, TinyBERT, equation 7.

    Args:
        student: (B, heads, L, L), any floating dtype; computed in float32.
        teacher: (B, heads, L, L).
        mask: (B, L), True = included, both as query and as key; None = all.

    Returns:
        Float32 scalar; 0 with zero gradient if no position is included.

    Example:
        >>> import torch
        >>> attention_score_loss(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
        tensor(1.)
    """
    student, teacher = student.float(), teacher.float()
    if mask is None:
        return (student - teacher).square().mean()
    pair_mask = (mask.bool().unsqueeze(1) & mask.bool().unsqueeze(2)).unsqueeze(1)
    # scores of padding may be infinite, and the gradient of inf - inf is NaN: make them equal before subtracting
    student, teacher = student.masked_fill(~pair_mask, 0.0), teacher.masked_fill(~pair_mask, 0.0)
    return (student - teacher).square().mean(dim=1).sum() / pair_mask.sum().clamp(min=1)


def attention_scores(qkv: QKV) -> Tensor:
    """Return the scaled products of queries and keys, (B, heads, L, L), float32."""
    query, key = (
        vectors.float().unflatten(-1, (qkv.num_attention_heads, -1)).transpose(1, 2) for vectors in (qkv.query, qkv.key)
    )
    with torch.autocast(query.device.type, enabled=False):
        scores: Tensor = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    return scores


class AttentionScoreLoss(LayerPairLoss):
    """Mean squared error of the student's and the teacher's attention scores.

    The scores are computed from queries and keys, so the loss works with any attention implementation. The position
    bias of some models (MPNet) is not included.

    Args:
        weight: Weight of this loss in the total, >= 0.
        layer_map: Maps layers of the student to layers of the teacher, 1 = the first, negative = from the end; the loss
            is averaged over the pairs. Null = the last of each.

    Raises:
        ValueError: Before the first step, if the numbers of attention heads differ or a layer does not exist.
    """

    requires = frozenset({"qkv"})
    first_layer = 1
    averages_tokens = False

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the layers exist, and that the numbers of attention heads are equal."""
        super().setup(student, teacher)
        if student.num_attention_heads != teacher.num_attention_heads:
            raise ValueError(
                f"AttentionScoreLoss: the student has {student.num_attention_heads} attention heads, the teacher "
                f"{teacher.num_attention_heads}; use a student with as many heads, or SelfAttentionRelationLoss"
            )

    def num_elements(self, student: Outputs) -> Tensor:
        """Return the number of pairs of tokens."""
        if student.token_mask is None:
            return super().num_elements(student)
        return student.token_mask.sum(dim=1).square().sum()

    def compare_layers(self, student: QKV, teacher: QKV, mask: Tensor | None) -> Tensor:
        """Return ``attention_score_loss``."""
        return attention_score_loss(attention_scores(student), attention_scores(teacher), mask)
