"""Base class of the losses on intermediate layers."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from lightning_kd.losses.base import DistillationLoss, mean_of_losses
from lightning_kd.outputs import ModelDims, Outputs

LayerMap = dict[int, int]
"""Maps student layers to teacher layers: 0 = the embeddings, n = the output of layer n, negative = from the end."""


class LayerPairLoss(DistillationLoss, ABC):
    """Base class of the losses that compare pairs of layers and average over the pairs.

    A subclass sets ``requires`` to the one kind of intermediate outputs that it compares.

    Attributes:
        first_layer: Number of the first of these outputs: 0 if they include the embeddings, else 1.

    Args:
        weight: Weight of this loss in the total, >= 0.
        layer_map: Maps layers of the student to layers of the teacher. None = the last of each.
    """

    averages_tokens = True
    first_layer: int = 0

    def __init__(self, weight: float = 1.0, layer_map: LayerMap | None = None) -> None:
        super().__init__(weight)
        self.layer_map = layer_map

    @property
    def layer_pairs(self) -> LayerMap:
        """The layers that are compared."""
        return self.layer_map or {-1: -1}

    @abstractmethod
    def compare_layers(self, student: Any, teacher: Any, mask: Tensor | None) -> Tensor:
        """Return the loss for one pair of layers.

        Args:
            student: Hidden states, (B, L, H), or ``QKV`` of a layer of the student.
            teacher: The same for the teacher.
            mask: Positions that are not padding, (B, L); None = all.
        """

    def setup(self, student: ModelDims, teacher: ModelDims) -> None:
        """Check that the layers exist.

        Raises:
            ValueError: If one does not exist; names it and the layers of the model.
        """
        first = self.first_layer
        for student_layer, teacher_layer in self.layer_pairs.items():
            for role, index, dims in (("student", student_layer, student), ("teacher", teacher_layer, teacher)):
                last = dims.num_hidden_layers
                if not (first <= index <= last or first - last - 1 <= index < 0):
                    embeddings = " (0 = the embeddings)" if first == 0 else ""
                    raise ValueError(
                        f"{type(self).__name__}: the pair {student_layer}: {teacher_layer} names layer {index} of the "
                        f"{role}, which has layers {first} to {last}{embeddings}; negative indices count from the last"
                    )

    def forward(self, student: Outputs, teacher: Outputs | None) -> Tensor:
        """Return the mean of ``compare_layers`` over the pairs of layers."""
        (name,) = self.requires
        losses = [
            self.compare_layers(self._layer(student, name, i), self._layer(teacher, name, j), student.token_mask)
            for i, j in self.layer_pairs.items()
        ]
        return mean_of_losses(losses)

    def _layer(self, outputs: Outputs | None, name: str, number: int) -> Any:
        """Return the intermediate output of a layer."""
        return getattr(outputs, name)[number - self.first_layer if number > 0 else number]
