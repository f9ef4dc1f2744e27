"""What the module asks of a task."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor
from torchmetrics import MetricCollection

from lightning_kd.outputs import Batch, Outputs


class Task(ABC):
    """A set of heads. A subclass keeps each constructor argument under the argument's own name.

    Attributes:
        auto_class: Name of the transformers class that builds a network with these heads.
        pipeline: Name of the transformers pipeline that runs such a network.
        monitor: The metric that picks the best checkpoint, one of ``metrics``.
        monitor_mode: Whether a larger or a smaller value of it is better.
    """

    auto_class: ClassVar[str]
    pipeline: ClassVar[str]
    monitor: ClassVar[str]
    monitor_mode: ClassVar[Literal["min", "max"]] = "max"

    @abstractmethod
    def outputs(self, network_output: Any, batch: Batch) -> Outputs:
        """Cut what a network returned into heads, leaving out rows that do not count.

        Args:
            network_output: A transformers output, or a plain tensor of logits.
            batch: The batch the network saw; ``labels`` may be missing.
        """

    @abstractmethod
    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Fresh metrics for a split, named without prefix."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Outputs) -> None:
        """Count a batch of labelled rows into the metrics."""

    @abstractmethod
    def chance(self, label_counts: Tensor) -> float:
        """The value of ``monitor`` up to which a network may be guessing.

        Args:
            label_counts: How often each class occurs in the split, (C,).
        """

    @abstractmethod
    def predictions(self, outputs: Outputs, label_names: list[str]) -> list[dict[str, Any]]:
        """The rows of a prediction file, one per row of the batch that counts."""
