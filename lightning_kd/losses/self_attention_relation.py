"""KL divergence of the relations among queries, among keys and among values."""

import math

import torch
from torch import Tensor

from lightning_kd.losses.base import mean_of_losses
from lightning_kd.losses.layer_pairs import LayerMap, LayerPairLoss
from lightning_kd.outputs import QKV, ModelDims


def self_attention_relation_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None, num_relation_heads: int
) -> Tensor:
    r"""Compute the KL divergence of the self-attention relations, averaged over relation heads and tokens.

    The vectors are split into ``num_relation_heads`` heads, so the widths of the models may differ. The relation of a
    token is the softmax of its scaled products with all tokens:

    .. math:: \frac{1}{A_r |x|} \sum_a \sum_t KL(R^T_{a,t} \| R^S_{a,t}), \quad
              R = softmax(\frac{V V^\top}{\sqrt{d_r}})

    Wang et al. 2021, MiniLMv2, equations 3 to 6.

    Args:
        student: Queries, keys or values of the student, (B, L, H), any floating dtype; computed in float32.
        teacher: The same for the teacher, (B, L, H').
        mask: (B, L), True = included; None = all.
        num_relation_heads: Number of relation heads; must divide H and H'.

    Returns:
        Float32 scalar; 0 with zero gradient if no position is included.
    """
    valid = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device) if mask is None else mask.bool()
    log_q, log_p = (_log_relations(vectors, valid, num_relation_heads) for vectors in (student, teacher))
    # a masked position has probability 0 in both, and 0 * -inf is NaN
    difference = (log_p - log_q).masked_fill(~valid[:, None, None, :], 0.0)
    divergence = (log_p.exp() * difference).sum(dim=-1).mean(dim=1)
    return divergence.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def _log_relations(vectors: Tensor, valid: Tensor, num_heads: int) -> Tensor:
    vectors = vectors.float().masked_fill(~valid.unsqueeze(-1), 0.0)  # vectors of padding may be infinite
    vectors = vectors.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    with torch.autocast(vectors.device.type, enabled=False):
        products = vectors @ vectors.transpose(2, 3) / math.sqrt(vectors.shape[-1])
    # an example without tokens is not masked: all -inf would give NaN
    masked = ~valid[:, None, None, :] & valid.any(dim=1)[:, None, None, None]
    return products.masked_fill(masked, -torch.inf).log_softmax(dim=-1)


class SelfAttentionRelationLoss(LayerPairLoss):
    """KL divergence of the relations among queries, among keys and among values of one layer, averaged over the three.

    Width, depth and number of attention heads of the models may differ. Works with any attention implementation.

    Args:
        weight: Weight of this loss in the total, >= 0.
        num_relation_heads: Number of relation heads; must divide the width of both models. The paper uses 48 for widths
            of 384 and 768.
        student_layer: Layer of the student, 1 = the first, negative = from the end.
        teacher_layer: Layer of the teacher; the paper uses an upper layer, not always the last.

    Raises:
        ValueError: If ``num_relation_heads`` is below 1; before the first step, if it does not divide the widths or a
            layer does not exist.
    """

    requires = frozenset({"qkv"})
    first_layer = 1

    def __init__(
        self, weight: float = 1.0, num_relation_heads: int = 12, student_layer: int = -1, teacher_layer: int = -1
    ) -> None:
        super().__init__(weight)
        if num_relation_heads < 1:
            raise ValueError(f"SelfAttentionRelationLoss: num_relation_heads must be >= 1, got {num_relation_heads}")
        self.num_relation_heads = num_relation_heads
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer

    @property
    def layer_pairs(self) -> LayerMap:
        """The layers that are compared."""
        return {self.student_layer: self.teacher_layer}

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the layers exist, and that ``num_relation_heads`` divides the widths."""
        super().setup(student, teacher)
        for role, dims in (("student", student), ("teacher", teacher)):
            if dims.hidden_size % self.num_relation_heads:
                common = math.gcd(student.hidden_size, teacher.hidden_size)
                raise ValueError(
                    f"SelfAttentionRelationLoss: num_relation_heads {self.num_relation_heads} does not divide the "
                    f"{role}'s hidden size {dims.hidden_size}; use a divisor of {common}"
                )

    def compare_layers(self, student: QKV, teacher: QKV, mask: Tensor | None) -> Tensor:
        """Return the mean of ``self_attention_relation_loss`` over queries, keys and values."""
        losses = [
            self_attention_relation_loss(getattr(student, kind), getattr(teacher, kind), mask, self.num_relation_heads)
            for kind in ("query", "key", "value")
        ]
        return mean_of_losses(losses)
