"""Masked language modelling: the hidden tokens of a text."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import Perplexity

from lightning_kd.models.position_pruning import PositionSelector, prune_positions
from lightning_kd.outputs import IGNORE_INDEX, Batch, Head, Outputs, Requirement
from lightning_kd.tasks.base import Task
from lightning_kd.tasks.unit_scores import PerExampleScores


class PerplexityFromLogits(Perplexity):
    """torchmetrics' perplexity from log-probabilities: theirs is infinite once a probability rounds to 0."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count logits (N, C) and labels (N,)."""
        self.total_log_probs += cross_entropy(preds.float(), target, reduction="sum")
        self.count += len(target)


class MaskedLM(Task):
    """Masked language modelling: one head, ``token``, of logits (N, vocabulary) at the N masked positions of a batch.

    Scored by ``perplexity``, exp of the mean cross-entropy in nats, >= 1; lower is better. ``labels`` of a batch are
    the hidden tokens, (B, L), -100 where none is hidden.
    """

    auto_class = "AutoModelForMaskedLM"
    pipeline = "fill-mask"
    heads = ("token",)
    named_labels = False
    logits_per_token = True
    monitor = "perplexity"
    example_unit = "hidden tokens"
    monitor_mode = "min"

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a network, its head, and what it can of the last layer, at the masked positions only."""
        with prune_positions(
            model,
            self._position_selector,
            batch,
            prune_before_head=True,
            output_hidden_states="hidden_states" in requires,
        ):
            return super().run(model, batch, requires)

    def _position_selector(self, batch: Batch) -> PositionSelector:
        masked = self._masked_positions(batch)
        return lambda states: states[masked.to(states.device)]  # a network may lie on several

    def outputs(self, model_output: Any, batch: Batch) -> Outputs:
        """The head ``token``, whether the network's logits are those of all positions or of the masked ones."""
        logits = getattr(model_output, "logits", model_output)
        return self.from_logits({"token": logits if logits.ndim == 2 else logits[self._masked_positions(batch)]}, batch)

    def from_logits(self, logits: dict[str, Tensor], batch: Batch) -> Outputs:
        """The head ``token``."""
        return Outputs({"token": Head(logits["token"], batch["labels"][self._masked_positions(batch)])})

    def num_distributions(self, batch: Batch) -> Tensor:
        """The number of masked positions."""
        masked = self._masked_positions(batch)
        return masked[batch["row_id"] >= 0].sum(dim=1)

    @staticmethod
    def _masked_positions(batch: Batch) -> Tensor:
        if "labels" not in batch:
            raise ValueError("MaskedLM: the batch has no labels, the hidden tokens; mask it as MaskedLMDataModule does")
        masked: Tensor = batch["labels"] != IGNORE_INDEX
        return masked & (batch["row_id"] >= 0).unsqueeze(1) if "row_id" in batch else masked

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Perplexity."""
        return MetricCollection({"perplexity": PerplexityFromLogits()})

    def per_example_metric(self) -> Metric:
        """The cross-entropy of each masked token, in nats."""
        return PerExampleScores(partial(cross_entropy, reduction="none"))

    def monitor_from_mean(self, mean: float) -> float:
        """The perplexity."""
        return math.exp(mean)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Count the masked positions."""
        head = outputs.heads["token"]
        assert head.labels is not None  # outputs has seen to it
        if outputs.num_targets:
            metrics.update(head.logits, head.labels)

    def label_counts(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How often each token was hidden, (vocabulary,)."""
        head = outputs.heads["token"]
        assert head.labels is not None
        return torch.bincount(head.labels, minlength=head.logits.shape[-1])

    def baseline_score(self, label_counts: Tensor) -> float:
        """The perplexity of guessing by frequency, without reading the context."""
        shares = label_counts[label_counts > 0].double() / label_counts.sum()
        return float(torch.exp(-(shares * shares.log()).sum()))

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """Nothing: there is no prediction file.

        Raises:
            ValueError: Always; names the alternative.
        """
        raise ValueError("MaskedLM: there is nothing to predict; load the exported student with pipeline('fill-mask')")
