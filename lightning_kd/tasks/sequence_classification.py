"""One label per text or pair of texts."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryRecall, MulticlassAccuracy, MulticlassF1Score

from lightning_kd.models.position_pruning import PositionSelector, prune_positions
from lightning_kd.outputs import Batch, Head, Outputs, Requirement
from lightning_kd.tasks.base import Task
from lightning_kd.tasks.unit_scores import PerExampleScores


def _first_position(batch: Batch) -> PositionSelector:
    return lambda states: states[:, :1]


class OutOfScopeRecall(BinaryRecall):
    """Share of the out-of-scope rows that were recognised as such, in [0, 1].

    Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction.

    Args:
        oos_index: Index of the out-of-scope class.
    """

    def __init__(self, oos_index: int) -> None:
        super().__init__()
        self.oos_index = oos_index

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count predicted and true class indices, both (N,)."""
        super().update((preds == self.oos_index).int(), (target == self.oos_index).int())


class SequenceClassification(Task):
    """Classification of whole texts: one head of logits (N, number of labels).

    Scored by ``accuracy`` and ``f1_macro``; label sets with an out-of-scope class also by ``in_scope_accuracy``
    (rows of that class left out) and ``oos_recall``. All in [0, 1].

    Args:
        oos_label: Name of the out-of-scope class, where the label set has one.
    """

    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    heads = ("label",)
    monitor = "accuracy"

    def __init__(self, oos_label: str = "oos") -> None:
        self.oos_label = oos_label

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a network, what it can of the last layer at the first position only, where most heads read."""
        with prune_positions(
            model, _first_position, batch, prune_before_head=False, output_hidden_states="hidden_states" in requires
        ):
            return super().run(model, batch, requires)

    def outputs(self, model_output: Any, batch: Batch) -> Outputs:
        """One head, ``label``; rows with ``row_id`` -1 only pad an evaluation batch and are left out."""
        logits = getattr(model_output, "logits", model_output)
        return self.from_logits({"label": logits[batch["row_id"] >= 0] if "row_id" in batch else logits}, batch)

    def from_logits(self, logits: dict[str, Tensor], batch: Batch) -> Outputs:
        """One head, ``label``."""
        labels = batch.get("labels")
        if labels is not None and "row_id" in batch:
            labels = labels[batch["row_id"] >= 0]
        return Outputs({"label": Head(logits["label"], labels)})

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Accuracy and macro-F1, and the out-of-scope metrics where ``oos_label`` is a label."""
        classes = max(len(label_names), 2)  # torchmetrics takes no fewer
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "f1_macro": MulticlassF1Score(classes, average="macro"),
        }
        if self.oos_label in label_names:
            oos = label_names.index(self.oos_label)
            metrics["in_scope_accuracy"] = MulticlassAccuracy(classes, average="micro", ignore_index=oos)
            metrics["oos_recall"] = OutOfScopeRecall(oos)
        # no compute groups: they merge metrics whose states agree after the first batch, and in-scope accuracy is
        # accuracy until the first out-of-scope row comes
        return MetricCollection(metrics, compute_groups=False)

    def per_example_metric(self) -> Metric:
        """Whether each row is right, 0 or 1."""
        return PerExampleScores(torch.eq)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Count the most likely classes."""
        labels = self._labels(outputs)
        if outputs.num_targets:  # with several devices a batch may be all padding, which torchmetrics does not take
            metrics.update(outputs.heads["label"].logits.argmax(dim=-1), labels)

    def label_counts(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Count the labels, (number of labels,)."""
        labels = self._labels(outputs)
        return torch.bincount(labels[labels >= 0], minlength=outputs.heads["label"].logits.shape[-1])

    @staticmethod
    def _labels(outputs: Outputs) -> Tensor:
        labels = outputs.heads["label"].labels
        if labels is None:
            raise ValueError("the rows have no labels, so they cannot be scored; label them, or use predict")
        return labels

    def baseline_score(self, label_counts: Tensor) -> float:
        """What always answering the most frequent class could reach: its share plus two standard errors.

        At most half-way from that share to 1, so that few rows can still show a good teacher.
        """
        rows = int(label_counts.sum())
        majority = float(label_counts.max()) / rows
        if majority == 1:
            return 0.0  # one class only: nothing can be told
        return min(majority + 2 * math.sqrt(majority * (1 - majority) / rows), (1 + majority) / 2)

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """The most likely label and its probability, in [0, 1]."""
        scores, index = outputs.heads["label"].logits.float().softmax(dim=-1).max(dim=-1)
        return [
            {"label": label_names[i], "score": round(p, 6)}
            for i, p in zip(index.tolist(), scores.tolist(), strict=True)
        ]
