"""Interface of a task."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_kd import models
from lightning_kd.models import labels
from lightning_kd.models.qkv_hooks import capture_qkv
from lightning_kd.outputs import Batch, Head, HeadKind, Outputs, Requirement

MAX_NAMED_EXAMPLES = 10
"""Maximum number of examples that a message names."""


class Task(ABC):
    """Heads of a model, with their targets, metrics and predictions.

    A subclass stores each constructor argument as an attribute of the same name, because checkpoints save a task as its
    class and arguments.

    Attributes:
        auto_class: Name of the transformers class that builds a model with these heads.
        pipeline: Name of the transformers pipeline for such a model.
        heads: Names of the heads.
        label_keys: Batch keys of the labels, one per head, in the same order.
        head_kind: Kind of the heads, see ``Head``.
        named_labels: True if the classes have names, which data, teacher and student must share.
        num_labels: Number of outputs C, if the task fixes it.
        predicts_positions: True if the classes are the positions of the input, so that C is its length.
        logits_per_token: True if a model returns logits for each position of the input.
        example_unit: Plural noun for the units that the metrics average over, such as ``questions``.
        prediction_file: Name of the file of predictions.
        monitor: The metric, one of ``metrics``, that selects the best checkpoint.
        monitor_mode: ``max`` if higher values of ``monitor`` are better, ``min`` if lower ones are.
    """

    auto_class: ClassVar[str]
    pipeline: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    label_keys: ClassVar[tuple[str, ...]]
    head_kind: ClassVar[HeadKind] = "categorical"
    named_labels: ClassVar[bool] = True
    num_labels: ClassVar[int | None] = None
    predicts_positions: ClassVar[bool] = False
    logits_per_token: ClassVar[bool] = False
    example_unit: ClassVar[str] = "examples"
    prediction_file: ClassVar[str] = "predictions.csv"
    monitor: ClassVar[str]
    monitor_mode: ClassVar[Literal["min", "max"]] = "max"

    @classmethod
    def matches_config(cls, config: Any) -> bool:
        """Return True if a transformers configuration names an architecture with the heads of this task."""
        suffix = cls.auto_class.removeprefix("AutoModel")
        return any(name.endswith(suffix) for name in config.architectures or [])

    def check_data(self, datamodule: Any) -> None:  # noqa: B027  most tasks accept any data
        """Check that a DataModule fits the task, before anything is built.

        Args:
            datamodule: Has the attributes of ``lightning_kd.data.interface.DataModuleInterface``.

        Raises:
            ValueError: If it does not fit.
        """

    # ---- from batches to heads

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a model on a batch.

        Args:
            model: A model with the heads of this task.
            batch: A batch; labels are optional and not passed to the model.
            requires: Intermediate outputs to return as well.

        Raises:
            ValueError: If the model does not return what is required.
        """
        inputs = {name: value for name, value in batch.items() if name not in self.label_keys}
        options = {"output_hidden_states": True} if "hidden_states" in requires else {}
        with capture_qkv(model) if "qkv" in requires else nullcontext(None) as qkv:
            model_output = models.call_model(model, inputs, **options)
        outputs = self.outputs(model_output, batch)
        if not requires:
            return outputs
        hidden_states = getattr(model_output, "hidden_states", None)
        if "hidden_states" in requires and hidden_states is None:
            raise ValueError(f"{type(model).__name__} returns no hidden_states; use losses on its logits")
        token_mask = batch["attention_mask"].bool() if "attention_mask" in batch else None
        return replace(
            outputs, token_mask=token_mask, hidden_states=hidden_states, qkv=None if qkv is None else tuple(qkv)
        )

    def target_mask(self, batch: Batch) -> Tensor | None:
        """Return which examples (B,), or which of their positions (B, L), are targets; None = all examples.

        By default all examples that are not padding. Should not depend on the labels, if the task allows it, so that
        unlabeled examples also have targets.
        """
        mask = batch["row_id"] >= 0 if "row_id" in batch else None
        return None if mask is None or bool(mask.all()) else mask

    def class_mask(self, batch: Batch) -> Tensor | None:
        """Return which classes to include, (B, C); None = all."""
        return None

    def head_logits(self, model_output: Any) -> dict[str, Tensor]:
        """Return the logits of each head, (B, C) or (B, L, C), from a transformers output or a tensor of logits."""
        (name,) = self.heads
        return {name: getattr(model_output, "logits", model_output)}

    def outputs(self, model_output: Any, batch: Batch) -> Outputs:
        """Return the heads of a batch from a model's output, at the targets only.

        Args:
            model_output: A transformers output, or a tensor of logits; for all examples and positions, or, where
                targets are positions, for the targets only, (N, C).
            batch: The model's input; labels are optional.
        """
        mask, logits = self.target_mask(batch), self.head_logits(model_output)
        if mask is not None:
            logits = {name: z if z.ndim == mask.ndim else z[mask] for name, z in logits.items()}
        return self.from_logits(logits, batch)

    def from_logits(self, logits: dict[str, Tensor], batch: Batch) -> Outputs:
        """Return the heads of a batch from the logits of its targets.

        Args:
            logits: (N, C) for each head.
            batch: The batch; labels are optional.
        """
        mask = self.target_mask(batch)

        def select_targets(values: Tensor | None) -> Tensor | None:
            return values if values is None or mask is None else values[mask]

        class_mask = select_targets(self.class_mask(batch))
        heads = {
            name: Head(logits[name], select_targets(batch.get(key)), class_mask, self.head_kind)
            for name, key in zip(self.heads, self.label_keys, strict=True)
        }
        return Outputs(heads)

    def check_finite(self, outputs: Outputs, batch: Batch, name: str) -> None:
        """Check that a model's logits are numbers; the score of any others would mean nothing.

        Args:
            outputs: The model's outputs for the batch.
            batch: The batch.
            name: The model, for the message.

        Raises:
            FloatingPointError: If a logit of an included class is NaN or infinite; names the model and the examples.
        """
        finite = torch.stack([head.is_finite for head in outputs.heads.values()]).all(dim=0)
        if finite.all():
            return
        mask = self.target_mask(batch)
        examples = torch.arange(len(finite), device=finite.device) if mask is None else mask.nonzero()[:, 0]
        rows = (batch["row_id"][examples] if "row_id" in batch else examples)[~finite].unique().tolist()
        named = ", ".join(map(str, rows[:MAX_NAMED_EXAMPLES])) + ", ..." * (len(rows) > MAX_NAMED_EXAMPLES)
        raise FloatingPointError(
            f"{name} returned NaN or infinite logits for the examples [{named}]; use another precision, or inspect its "
            "weights and these examples"
        )

    def num_distributions(self, batch: Batch) -> Tensor:
        """Return the number of targets per head of each example that is not padding, (examples,)."""
        mask, row_ids = self.target_mask(batch), batch["row_id"]
        counts = torch.ones_like(row_ids) if mask is None else mask.unsqueeze(-1).flatten(1).sum(dim=1)
        return counts[row_ids >= 0]

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """Convert the outputs of a teacher with another tokenizer to the student's positions.

        Args:
            outputs: Outputs for ``teacher_inputs``.
            teacher_inputs: The batch in the teacher's tokenization.
            batch: The batch in the student's tokenization.
        """
        return outputs

    # ---- class orders

    def remap_labels(self, batch: Batch, index: Tensor, num_labels: int) -> Batch:
        """Return the batch with its labels in the model's class order.

        Args:
            batch: The batch; labels are optional.
            index: Index of each of the data's classes among the model's classes, (classes of the data,).
            num_labels: Number of classes of the model.
        """
        remapped = {}
        for key in self.label_keys:
            if key not in batch:
                continue
            if self.head_kind == "categorical":
                remapped[key] = labels.remap_labels(batch[key], index)
            else:
                columns = torch.full((*batch[key].shape[:-1], num_labels), torch.nan, device=index.device)
                columns[..., index] = batch[key].float()
                remapped[key] = columns
        return {**batch, **remapped}

    def remap_predictions(self, predictions: Tensor, index: Tensor, num_labels: int) -> Tensor:
        """Return predictions (``Head.prediction``) in the class order of the data; -1 = not a class of the data.

        See ``remap_labels`` for the arguments.
        """
        if self.head_kind != "categorical":
            return predictions[:, index]
        data_order = torch.full((num_labels,), -1).scatter(0, index, torch.arange(len(index)))
        return data_order[predictions]

    # ---- scores

    @abstractmethod
    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Return new metrics for a split, by name without a prefix.

        Args:
            label_names: Names of the model's classes; empty without ``named_labels``.
        """

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Update the metrics with a labeled batch.

        Args:
            metrics: From ``metrics`` or ``per_example_metric``, on the device of the outputs.
            outputs: A model's outputs for the batch.
            batch: The batch, for targets that are not in the heads.
        """

    def is_labeled(self, batch: Batch) -> bool:
        """Return True if a batch has the labels that ``update`` needs."""
        return all(key in batch for key in self.label_keys)

    @abstractmethod
    def per_example_metric(self) -> Metric:
        """Return a metric, updated by ``update``, that keeps statistics of each example, (examples,) or (examples, k).

        Here an example is a resampling unit of the bootstrap: an example, a question or a masked token, depending on
        the task.
        """

    def monitor_from_statistics(self, statistics: Tensor) -> float:
        """Compute ``monitor`` from the statistics of examples, (examples, k); by default their mean."""
        return float(statistics.mean())

    @abstractmethod
    def baseline_statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return statistics of the labels of a batch, (k,); their sum over a split goes into ``baseline_score``.

        Args:
            outputs: A model's outputs for the batch.
            batch: A labeled batch.

        Raises:
            ValueError: If the batch has no labels.
        """

    @abstractmethod
    def baseline_score(self, statistics: Tensor) -> float:
        """Return the value of ``monitor`` that a model can reach without reading its input.

        Args:
            statistics: ``baseline_statistics`` summed over a split.
        """

    # ---- predictions

    @abstractmethod
    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """Return one prediction per example of a batch that is not padding: values by column of the prediction file.

        Args:
            outputs: A model's outputs for the batch.
            batch: The batch.
            label_names: Names of the model's classes; empty without ``named_labels``.
        """

    def merge_predictions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of the prediction file.

        Args:
            rows: The ``predictions`` for all examples, sorted by ``row_id``.
        """
        return rows

    def prediction_json(self, rows: list[dict[str, Any]]) -> Any:
        """Return the content of a JSON prediction file from the rows of ``merge_predictions``."""
        return rows
