"""Mean squared error of hidden states."""

from typing import Any

from torch import Tensor, nn

from lightning_kd.losses.base import mean_or_zero
from lightning_kd.losses.layer_pairs import LayerMap, LayerPairLoss
from lightning_kd.outputs import ModelDims


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


class HiddenStateMSELoss(LayerPairLoss):
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

    def __init__(self, weight: float = 1.0, layer_map: LayerMap | None = None) -> None:
        super().__init__(weight, layer_map)
        self.projection: nn.Linear | None = None

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the layers exist, and create the projection if the widths differ."""
        super().setup(student, teacher)
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

    def compare_layers(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``hidden_state_mse_loss`` of the projected states."""
        return hidden_state_mse_loss(student if self.projection is None else self.projection(student), teacher, mask)
