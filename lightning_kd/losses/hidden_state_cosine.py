"""Cosine distance of hidden states."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lightning_kd.losses.base import mean_or_zero
from lightning_kd.losses.layer_pairs import LayerPairLoss
from lightning_kd.outputs import ModelDims


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


class HiddenStateCosineLoss(LayerPairLoss):
    """Cosine distance of the student's and the teacher's hidden states, which must have the same width.

    Args:
        weight: Weight of this loss in the total, >= 0.
        layer_map: Maps hidden states of the student to those of the teacher: 0 = the embeddings, n = the output of
            layer n, negative = from the end; the loss is averaged over the pairs. Null = the last of each.

    Raises:
        ValueError: Before the first step, if the widths differ or a layer does not exist.
    """

    requires = frozenset({"hidden_states"})

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the layers exist, and that the widths are equal."""
        super().setup(student, teacher)
        if student.hidden_size != teacher.hidden_size:
            raise ValueError(
                f"HiddenStateCosineLoss: the hidden sizes differ, {student.hidden_size} of the student and "
                f"{teacher.hidden_size} of the teacher; use HiddenStateMSELoss, which learns a projection, or "
                "SelfAttentionRelationLoss"
            )

    def compare_layers(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``hidden_state_cosine_loss``."""
        return hidden_state_cosine_loss(student, teacher, mask)
