"""Masked language modeling."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import CatMetric, Metric, MetricCollection
from torchmetrics.text import Perplexity

from lightning_kd.models.position_pruning import PositionSelector, prune_positions
from lightning_kd.outputs import IGNORE_INDEX, Batch, Head, Outputs, Requirement
from lightning_kd.tasks.base import Task


class PerplexityFromLogits(Perplexity):
    """Perplexity from logits; unlike in torchmetrics, it stays finite if a probability underflows."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add logits (N, C) and labels (N,)."""
        self.total_log_probs += cross_entropy(preds.float(), target, reduction="sum")
        self.count += len(target)


class PerTokenCrossEntropy(CatMetric):
    """Cross-entropy of each token in nats, (N,)."""

    def update(self, preds: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add logits (N, C) and labels (N,)."""
        super().update(cross_entropy(preds, target, reduction="none"))


class MaskedLM(Task):
    """Masked language modeling with one head, ``token``: logits (N, vocabulary) at the N masked tokens of a batch.

    Scored by ``perplexity``, the exponential of the mean cross-entropy in nats, >= 1; lower is better. The labels of a
    batch, ``labels`` (B, L), are the original tokens, -100 where a token is not masked.
    """

    auto_class = "AutoModelForMaskedLM"
    pipeline = "fill-mask"
    heads = ("token",)
    label_keys = ("labels",)
    named_labels = False
    logits_per_token = True
    monitor = "perplexity"
    example_unit = "masked tokens"
    monitor_mode = "min"

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a model, with its head and, if possible, its last layer at the masked positions only."""
        output_hidden_states = "hidden_states" in requires
        with prune_positions(model, self._position_selector, batch, True, output_hidden_states):
            return super().run(model, batch, requires)

    def _position_selector(self, batch: Batch) -> PositionSelector:
        mask = self.target_mask(batch)
        return lambda states: states[mask.to(states.device)]  # a model may be spread over several devices

    def target_mask(self, batch: Batch) -> Tensor:
        """Return the masked positions (B, L), which are known from the labels only.

        Raises:
            ValueError: If the batch has no labels.
        """
        if "labels" not in batch:
            raise ValueError("MaskedLM: the batch has no 'labels'; mask its tokens, as MaskedLMDataModule does")
        masked: Tensor = batch["labels"] != IGNORE_INDEX
        return masked & (batch["row_id"] >= 0).unsqueeze(1) if "row_id" in batch else masked

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Return the perplexity."""
        return MetricCollection({"perplexity": PerplexityFromLogits()})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Update the metrics with the masked tokens of a batch."""
        head, labels = self._labeled_head(outputs)
        if outputs.num_targets:
            metrics.update(head.logits, labels)

    def per_example_metric(self) -> Metric:
        """Return the cross-entropy of each masked token."""
        return PerTokenCrossEntropy(nan_strategy="disable")

    def monitor_from_statistics(self, statistics: Tensor) -> float:
        """Return the perplexity from cross-entropies."""
        return math.exp(statistics.mean())

    @staticmethod
    def _labeled_head(outputs: Outputs) -> tuple[Head, Tensor]:
        head = outputs.heads["token"]
        assert head.labels is not None  # target_mask raises without labels
        return head, head.labels

    def baseline_statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return how often each token is masked, (vocabulary,)."""
        head, labels = self._labeled_head(outputs)
        return torch.bincount(labels, minlength=head.logits.shape[-1])

    def baseline_score(self, statistics: Tensor) -> float:
        """Return the perplexity of the unigram distribution."""
        frequencies = statistics[statistics > 0].double() / statistics.sum()
        return float(torch.exp(-(frequencies * frequencies.log()).sum()))

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """Raise: masked language models have no prediction file.

        Raises:
            ValueError: Always.
        """
        raise ValueError("task: MaskedLM has no predictions; load the exported student with pipeline('fill-mask')")
