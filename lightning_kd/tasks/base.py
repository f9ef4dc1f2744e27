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
        num_labels: Size of the head where its classes have no names; None = as many as there are label names.
        prediction_file: Name of the file that predictions are written to.
        monitor: The metric that picks the best checkpoint, one of ``metrics``.
        monitor_mode: Whether a larger or a smaller value of it is better.
    """

    auto_class: ClassVar[str]
    pipeline: ClassVar[str]
    num_labels: ClassVar[int | None] = None
    prediction_file: ClassVar[str] = "predictions.csv"
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
    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Count a batch of labelled rows into the metrics."""

    @abstractmethod
    def label_counts(self, outputs: Outputs) -> Tensor:
        """How often each class occurs in a batch of labelled rows; the same number of classes for each batch.

        Raises:
            ValueError: If the rows have no labels.
        """

    @abstractmethod
    def chance(self, label_counts: Tensor) -> float:
        """The value of ``monitor`` up to which a network may be guessing.

        Args:
            label_counts: ``label_counts`` summed over a split.
        """

    @abstractmethod
    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """What is predicted for each row of the batch that counts."""

    def merge_predictions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of the prediction file, from the ``predictions`` of all batches in the order of ``row_id``."""
        return rows
