"""Masked language modelling: the hidden tokens of a text."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import Perplexity

from lightning_kd.models.position_pruning import Choice, spare
from lightning_kd.outputs import IGNORED, Batch, Head, Need, Outputs
from lightning_kd.tasks.base import Task
from lightning_kd.tasks.unit_scores import UnitScores


class LogPerplexity(Perplexity):
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
    size_follows_length = True
    monitor = "perplexity"
    units = "hidden tokens"
    monitor_mode = "min"

    def run(self, network: nn.Module, batch: Batch, needs: frozenset[Need] = frozenset()) -> Outputs:
        """Run a network, its head, and what it can of the last layer, at the masked positions only."""
        with spare(network, self._choice, batch, head_alone=True, keep_layers="hidden_states" in needs):
            return super().run(network, batch, needs)

    def _choice(self, batch: Batch) -> Choice:
        masked = self._masked(batch)
        return lambda states: states[masked.to(states.device)]  # a network may lie on several

    def outputs(self, network_output: Any, batch: Batch) -> Outputs:
        """The head ``token``, whether the network's logits are those of all positions or of the masked ones."""
        logits = getattr(network_output, "logits", network_output)
        return self.from_logits({"token": logits if logits.ndim == 2 else logits[self._masked(batch)]}, batch)

    def from_logits(self, logits: dict[str, Tensor], batch: Batch) -> Outputs:
        """The head ``token``."""
        return Outputs({"token": Head(logits["token"], batch["labels"][self._masked(batch)])})

    def distributions_per_row(self, batch: Batch) -> Tensor:
        """The number of masked positions."""
        masked = self._masked(batch)
        return masked[batch["row_id"] >= 0].sum(dim=1)

    @staticmethod
    def _masked(batch: Batch) -> Tensor:
        if "labels" not in batch:
            raise ValueError("MaskedLM: the batch has no labels, the hidden tokens; mask it as MaskedLMDataModule does")
        masked: Tensor = batch["labels"] != IGNORED
        return masked & (batch["row_id"] >= 0).unsqueeze(1) if "row_id" in batch else masked

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Perplexity."""
        return MetricCollection({"perplexity": LogPerplexity()})

    def unit_scores(self) -> Metric:
        """The cross-entropy of each masked token, in nats."""
        return UnitScores(partial(cross_entropy, reduction="none"))

    def from_mean(self, mean: float) -> float:
        """The perplexity."""
        return math.exp(mean)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Count the masked positions."""
        head = outputs.heads["token"]
        assert head.labels is not None  # outputs has seen to it
        if outputs.rows:
            metrics.update(head.logits, head.labels)

    def label_counts(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How often each token was hidden, (vocabulary,)."""
        head = outputs.heads["token"]
        assert head.labels is not None
        return torch.bincount(head.labels, minlength=head.logits.shape[-1])

    def chance(self, label_counts: Tensor) -> float:
        """The perplexity of guessing by frequency, without reading the context."""
        shares = label_counts[label_counts > 0].double() / label_counts.sum()
        return float(torch.exp(-(shares * shares.log()).sum()))

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """Nothing: there is no prediction file.

        Raises:
            ValueError: Always; names the alternative.
        """
        raise ValueError("MaskedLM: there is nothing to predict; load the exported student with pipeline('fill-mask')")
