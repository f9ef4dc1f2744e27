"""Classification of texts or pairs of texts."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import CatMetric, Metric, MetricCollection
from torchmetrics.classification import BinaryRecall, MulticlassAccuracy, MulticlassF1Score

from lightning_kd.models.position_pruning import PositionSelector, prune_positions
from lightning_kd.outputs import Batch, Outputs, Requirement
from lightning_kd.tasks.base import Task


def _first_position(batch: Batch) -> PositionSelector:
    return lambda states: states[:, :1]


class OutOfScopeRecall(BinaryRecall):
    """Fraction of the out-of-scope examples that are predicted as out of scope, in [0, 1].

    Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction.

    Args:
        oos_index: Index of the out-of-scope class.
    """

    def __init__(self, oos_index: int) -> None:
        super().__init__()
        self.oos_index = oos_index

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predicted and true class indices, (N,)."""
        super().update((preds == self.oos_index).int(), (target == self.oos_index).int())


class PerExampleAccuracy(CatMetric):
    """1 for each example that is classified correctly, else 0, (N,)."""

    def update(self, preds: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add predicted and true class indices, (N,)."""
        super().update(preds == target)


class SequenceClassification(Task):
    """Classification of texts or pairs of texts, with one head, ``label``: logits (N, number of labels).

    Scored by ``accuracy`` and ``f1_macro``, and, if the labels include an out-of-scope class, by ``in_scope_accuracy``
    (without the examples of that class) and ``oos_recall``. All are in [0, 1].

    Args:
        oos_label: Name of the out-of-scope class.
    """

    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    heads = ("label",)
    label_keys = ("labels",)
    monitor = "accuracy"

    def __init__(self, oos_label: str = "oos") -> None:
        self.oos_label = oos_label

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a model, if possible with its last layer at the first position only: most heads read no other."""
        output_hidden_states = "hidden_states" in requires
        with prune_positions(model, _first_position, batch, False, output_hidden_states):
            return super().run(model, batch, requires)

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Return accuracy and macro F1, and the out-of-scope metrics if ``oos_label`` is a label."""
        num_classes = max(len(label_names), 2)  # the minimum of torchmetrics
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "f1_macro": MulticlassF1Score(num_classes, average="macro"),
        }
        if self.oos_label in label_names:
            oos = label_names.index(self.oos_label)
            metrics["in_scope_accuracy"] = MulticlassAccuracy(num_classes, average="micro", ignore_index=oos)
            metrics["oos_recall"] = OutOfScopeRecall(oos)
        # compute groups merge metrics whose states are equal after the first batch, and in-scope accuracy equals
        # accuracy until the first out-of-scope example
        return MetricCollection(metrics, compute_groups=False)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Update the metrics with the most likely classes."""
        labels = self._labels(outputs)
        if outputs.num_targets:  # on several devices a batch may be all padding, which torchmetrics does not accept
            metrics.update(outputs.heads["label"].prediction, labels)

    def per_example_metric(self) -> Metric:
        """Return the accuracy of each example, 0 or 1."""
        return PerExampleAccuracy(nan_strategy="disable")

    @staticmethod
    def _labels(outputs: Outputs) -> Tensor:
        labels = outputs.heads["label"].labels
        if labels is None:
            raise ValueError("labels: the examples have none, so they cannot be scored; add labels, or use predict")
        return labels

    def baseline_statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return how often each label occurs, (number of labels,)."""
        labels = self._labels(outputs)
        return torch.bincount(labels[labels >= 0], minlength=outputs.heads["label"].logits.shape[-1])

    def baseline_score(self, statistics: Tensor) -> float:
        """Return an upper bound of the accuracy of always predicting the most frequent class.

        The bound is the frequency of the class plus two standard errors, but at most halfway between the frequency and
        1, so that a good teacher also passes on a small split.
        """
        num_examples = int(statistics.sum())
        majority = float(statistics.max()) / num_examples
        if majority == 1:
            return 0.0  # a split with a single class says nothing about the teacher
        return min(majority + 2 * math.sqrt(majority * (1 - majority) / num_examples), (1 + majority) / 2)

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """Return the most likely label and its probability ``score``, in [0, 1]."""
        scores, index = outputs.heads["label"].logits.float().softmax(dim=-1).max(dim=-1)
        return [
            {"label": label_names[i], "score": round(p, 6)}
            for i, p in zip(index.tolist(), scores.tolist(), strict=True)
        ]
