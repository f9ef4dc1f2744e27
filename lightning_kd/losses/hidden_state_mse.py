"""Distance between the hidden states."""

from typing import Any

from torch import Tensor, nn

from lightning_kd.losses.base import DistillationLoss, mean_over_heads, mean_over_rows
from lightning_kd.losses.layer_map import LayerMap, check_layer_map
from lightning_kd.outputs import ModelDims, Outputs


def hidden_state_mse_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the hidden states, mean over their dimensions, then over the tokens.

    Jiao et al. 2020, TinyBERT, equation 8, for states of the same width.

    Args:
        student: (B, L, H), any floating dtype; computed in float32.
        teacher: (B, L, H).
        mask: (B, L), True = the position counts; None = all of them.

    Returns:
        Float32 scalar; 0 with zero gradient if no position is left.

    Example:
        >>> import torch
        >>> hidden_state_mse_loss(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2))
        tensor(5.)
    """
    if mask is not None:
        student, teacher = student[mask.bool()], teacher[mask.bool()]
    return mean_over_rows((student.float() - teacher.float()).square().mean(dim=-1).flatten())


class HiddenStateMSELoss(DistillationLoss):
    """Squared difference of the student's and the teacher's hidden states.

    Where the widths differ, the student's states go through a linear projection to the teacher's width, the same for
    all pairs. It is trained with the student, saved in checkpoints, and no part of the exported student.

    Args:
        weight: Factor of this loss in the total, >= 0.
        layer_map: Student's hidden state to teacher's: 0 = the embeddings, n = the output of layer n, negative from the
            end; the mean over the pairs. Null = the last of both.

    Raises:
        ValueError: Before the first step, if an index is off the end.
    """

    requires = frozenset({"hidden_states"})
    averages_tokens = True

    def __init__(self, weight: float = 1.0, layer_map: LayerMap | None = None) -> None:
        super().__init__(weight)
        self.layer_map = layer_map
        self.projection: nn.Linear | None = None

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check the layers, and make the projection where the widths differ."""
        check_layer_map(self.layer_map or {}, student, teacher, type(self).__name__, min_index=0)
        if student.hidden_size == teacher.hidden_size:
            self.projection = None
        elif self.projection is None:
            self.projection = nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # a checkpoint that is loaded where there is no teacher to tell the width
        saved = state_dict.get(f"{prefix}projection.weight")
        if saved is not None and self.projection is None:
            self.projection = nn.Linear(saved.shape[1], saved.shape[0], bias=False)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Mean over the pairs of ``hidden_state_mse_loss``."""
        assert teacher is not None  # promised by requires_teacher
        assert student.hidden_states is not None  # promised by requires
        assert teacher.hidden_states is not None
        project = nn.Identity() if self.projection is None else self.projection
        return mean_over_heads(
            [
                hidden_state_mse_loss(
                    project(student.hidden_states[student_layer]),
                    teacher.hidden_states[teacher_layer],
                    student.token_mask,
                )
                for student_layer, teacher_layer in (self.layer_map or {-1: -1}).items()
            ]
        )
