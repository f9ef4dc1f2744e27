"""Mean squared error of hidden states."""

from typing import Any

from torch import Tensor, nn

from lightning_kd.losses.base import DistillationLoss, LayerMap, check_layer_map, mean_of_losses, mean_or_zero
from lightning_kd.outputs import ModelDims, Outputs


def hidden_state_mse_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the squared error of the hidden states, averaged over dimensions, then over tokens.

    Jiao et al. 2020, TinyBERT, equation 8, for states of the same width.

    Args:
        student: (B, L, H), any floating dtype; computed in float32.
        teacher: (B, L, H).
        mask: (B, L), True = included; None = all.

    Returns:
        Float32 scalar; 0 with zero gradient if no position is included.

    Example:
        >>> import torch
        >>> hidden_state_mse_loss(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2))
        tensor(5.)
    """
    if mask is not None:
        student, teacher = student[mask.bool()], teacher[mask.bool()]
    return mean_or_zero((student.float() - teacher.float()).square().mean(dim=-1).flatten())


class HiddenStateMSELoss(DistillationLoss):
    """Mean squared error of the student's and the teacher's hidden states.

    If the widths differ, a linear projection, shared by all pairs, maps the student's states to the teacher's width. It
    is trained with the student and saved in checkpoints, but is not part of the exported student.

    Args:
        weight: Weight of this loss in the total, >= 0.
        layer_map: Maps hidden states of the student to those of the teacher: 0 = the embeddings, n = the output of
            layer n, negative = from the end; the loss is averaged over the pairs. Null = the last of each.

    Raises:
        ValueError: Before the first step, if a layer does not exist.
    """

    requires = frozenset({"hidden_states"})
    averages_tokens = True

    def __init__(self, weight: float = 1.0, layer_map: LayerMap | None = None) -> None:
        super().__init__(weight)
        self.layer_map = layer_map
        self.projection: nn.Linear | None = None

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the layers exist, and create the projection if the widths differ."""
        check_layer_map(self.layer_map or {}, student, teacher, type(self).__name__, min_index=0)
        if student.hidden_size == teacher.hidden_size:
            self.projection = None
        elif self.projection is None:
            self.projection = nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # load_from_checkpoint does not call setup, because there may be no teacher
        saved = state_dict.get(f"{prefix}projection.weight")
        if saved is not None and self.projection is None:
            self.projection = nn.Linear(saved.shape[1], saved.shape[0], bias=False)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``hidden_state_mse_loss`` over the pairs of layers."""
        assert teacher is not None  # guaranteed by requires_teacher
        assert student.hidden_states is not None  # guaranteed by requires
        assert teacher.hidden_states is not None
        project = nn.Identity() if self.projection is None else self.projection
        return mean_of_losses(
            [
                hidden_state_mse_loss(project(student.hidden_states[i]), teacher.hidden_states[j], student.token_mask)
                for i, j in (self.layer_map or {-1: -1}).items()
            ]
        )
