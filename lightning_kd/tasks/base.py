"""What the module asks of a task."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_kd import models
from lightning_kd.models.qkv_hooks import capture_qkv
from lightning_kd.outputs import Batch, Outputs, Requirement


class Task(ABC):
    """A set of heads. A subclass keeps each constructor argument under the argument's own name.

    Attributes:
        auto_class: Name of the transformers class that builds a network with these heads.
        pipeline: Name of the transformers pipeline that runs such a network.
        heads: Names of the heads.
        predicts_positions: Whether the classes are the positions of a row, so that short rows have fewer.
        logits_per_token: Whether long rows have more logits than short ones.
        label_keys: Entries of a batch that hold labels, which no model is given.
        named_labels: Whether the classes have names, which data, teacher and student must agree on.
        num_labels: Size of the head where the task fixes it.
        example_unit: What scores are means over.
        prediction_file: Name of the file that predictions are written to.
        monitor: The metric that picks the best checkpoint, one of ``metrics``.
        monitor_mode: Whether a larger or a smaller value of it is better.
    """

    auto_class: ClassVar[str]
    pipeline: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    label_keys: ClassVar[frozenset[str]] = frozenset({"labels"})
    named_labels: ClassVar[bool] = True
    num_labels: ClassVar[int | None] = None
    predicts_positions: ClassVar[bool] = False
    logits_per_token: ClassVar[bool] = False
    example_unit: ClassVar[str] = "rows"
    prediction_file: ClassVar[str] = "predictions.csv"
    monitor: ClassVar[str]
    monitor_mode: ClassVar[Literal["min", "max"]] = "max"

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a network on a batch: its heads, and what the losses need beside them.

        Raises:
            ValueError: If the network does not give what is needed.
        """
        options = {"output_hidden_states": True} if "hidden_states" in requires else {}
        recording = capture_qkv(model) if "qkv" in requires else nullcontext(None)
        with recording as qkv:
            inputs = {name: value for name, value in batch.items() if name not in self.label_keys}
            model_output = models.call_model(model, inputs, **options)
        outputs = self.outputs(model_output, batch)
        if not requires:
            return outputs
        hidden_states = getattr(model_output, "hidden_states", None)
        if "hidden_states" in requires and hidden_states is None:
            raise ValueError(f"{type(model).__name__} returns no hidden_states; use losses on its logits")
        token_mask = batch["attention_mask"].bool() if "attention_mask" in batch else None
        return replace(
            outputs,
            token_mask=token_mask,
            hidden_states=hidden_states,
            qkv=None if qkv is None else tuple(qkv),
        )

    @abstractmethod
    def outputs(self, model_output: Any, batch: Batch) -> Outputs:
        """Cut what a network returned into heads, leaving out rows that do not count.

        Args:
            model_output: A transformers output, or a plain tensor of logits.
            batch: The batch the network saw; ``labels`` may be missing.
        """

    @abstractmethod
    def from_logits(self, logits: dict[str, Tensor], batch: Batch) -> Outputs:
        """The heads of a batch from the logits of what counts, as ``outputs`` would have cut them.

        Args:
            logits: (N, C) for each head.
            batch: The batch; ``labels`` may be missing.
        """

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """What a network returned that reads the rows in its own encoding, as if it had read the student's.

        Args:
            outputs: Of the network.
            teacher_inputs: The encoding it read, an entry of ``TEACHER_INPUTS``.
            batch: The student's batch.
        """
        return outputs

    def num_distributions(self, batch: Batch) -> Tensor | None:
        """How many rows of a head's logits belong to each row of the batch that counts; None = one."""
        return None

    @abstractmethod
    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Fresh metrics for a split, named without prefix."""

    @abstractmethod
    def per_example_metric(self) -> Metric:
        """A metric that keeps the score of each unit, (examples,), updated as the others.

        Units are what one may draw again for an interval: rows, questions, hidden tokens.
        """

    def monitor_from_mean(self, mean: float) -> float:
        """``monitor`` from the mean of ``per_example_metric``."""
        return mean

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Count a batch of labelled rows into the metrics."""

    def check_data(self, datamodule: Any) -> None:  # noqa: B027  most tasks take any data
        """Raise if a DataModule does not fit the task, before anything is built.

        Args:
            datamodule: Has the attributes of ``lightning_kd.data.interface.DataModuleInterface``.

        Raises:
            ValueError: Says what to change.
        """

    @abstractmethod
    def label_counts(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How often each class occurs in a batch of labelled rows; the same number of classes for each batch.

        Raises:
            ValueError: If the rows have no labels.
        """

    @abstractmethod
    def baseline_score(self, label_counts: Tensor) -> float:
        """The value of ``monitor`` that a network may reach by guessing.

        Args:
            label_counts: ``label_counts`` summed over a split.
        """

    @abstractmethod
    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """What is predicted for each row of the batch that counts."""

    def merge_predictions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of the prediction file, from the ``predictions`` of all batches in the order of ``row_id``."""
        return rows
