"""Cosine distance of hidden states."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightning_kd.losses.base import DistillationLoss, LayerMap, check_layer_map, mean_of_losses, mean_or_zero
from lightning_kd.outputs import ModelDims, Outputs


def hidden_state_cosine_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Compute 1 - cosine similarity of the hidden states, averaged over tokens.

    Sanh et al. 2019, DistilBERT, section 2 (the loss called L_cos).

    Args:
        student: (B, L, H), any floating dtype; computed in float32.
        teacher: (B, L, H).
        mask: (B, L), True = included; None = all.

    Returns:
        Float32 scalar in [0, 2]; 0 with zero gradient if no position is included.

    Example:
        >>> import torch
        >>> hidden_state_cosine_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]]))
        tensor(1.)
    """
    if mask is not None:
        student, teacher = student[mask.bool()], teacher[mask.bool()]
    return mean_or_zero(1 - cosine_similarity(student.float(), teacher.float(), dim=-1).flatten())


class HiddenStateCosineLoss(DistillationLoss):
    """Cosine distance of the student's and the teacher's hidden states, which must have the same width.

    Args:
        weight: Weight of this loss in the total, >= 0.
        layer_map: Maps hidden states of the student to those of the teacher: 0 = the embeddings, n = the output of
            layer n, negative = from the end; the loss is averaged over the pairs. Null = the last of each.

    Raises:
        ValueError: Before the first step, if the widths differ or a layer does not exist.
    """

    requires = frozenset({"hidden_states"})
    averages_tokens = True

    def __init__(self, weight: float = 1.0, layer_map: LayerMap | None = None) -> None:
        super().__init__(weight)
        self.layer_map = layer_map

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the widths are equal, and that the layers exist."""
        check_layer_map(self.layer_map or {}, student, teacher, type(self).__name__, min_index=0)
        if student.hidden_size != teacher.hidden_size:
            raise ValueError(
                f"HiddenStateCosineLoss: the hidden sizes differ, {student.hidden_size} of the student and "
                f"{teacher.hidden_size} of the teacher; use HiddenStateMSELoss, which learns a projection, or "
                "SelfAttentionRelationLoss"
            )

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``hidden_state_cosine_loss`` over the pairs of layers."""
        assert teacher is not None  # guaranteed by requires_teacher
        assert student.hidden_states is not None  # guaranteed by requires
        assert teacher.hidden_states is not None
        return mean_of_losses(
            [
                hidden_state_cosine_loss(student.hidden_states[i], teacher.hidden_states[j], student.token_mask)
                for i, j in (self.layer_map or {-1: -1}).items()
            ]
        )
