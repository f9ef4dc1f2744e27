"""Masked language modelling: the hidden tokens of a text."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import Perplexity

from lightning_kd.outputs import IGNORED, Batch, Head, Need, Outputs
from lightning_kd.tasks.base import Task
from lightning_kd.tasks.unit_scores import UnitScores


@contextmanager
def only_at(network: nn.Module, positions: Tensor) -> Iterator[None]:
    """Within the context a network's head gets the chosen positions of the encoder's output alone.

    The projection to the vocabulary, most of the work of a small network, is so spared at the others. It needs no code
    per family: a hook on the encoder replaces ``last_hidden_state``, (B, L, H), by its chosen rows, (N, H). Other
    networks run as they are.

    Args:
        network: Its forward pass is to run once within the context.
        positions: (B, L), True = chosen.
    """
    network = getattr(network, "_orig_mod", network)  # of a compiled one
    encoder = network.base_model if isinstance(network, transformers.PreTrainedModel) else network
    if encoder is network:
        yield
        return

    def choose(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[positions]
        return output

    handle = encoder.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


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
    named_labels = False
    monitor = "perplexity"
    units = "hidden tokens"
    monitor_mode = "min"

    def run(self, network: nn.Module, batch: Batch, needs: frozenset[Need] = frozenset()) -> Outputs:
        """Run a network, its head at the masked positions only."""
        with only_at(network, self._masked(batch)):
            return super().run(network, batch, needs)

    def outputs(self, network_output: Any, batch: Batch) -> Outputs:
        """The head ``token``, whether the network's logits are those of all positions or of the masked ones."""
        logits = getattr(network_output, "logits", network_output)
        masked = self._masked(batch)
        return Outputs({"token": Head(logits if logits.ndim == 2 else logits[masked], batch["labels"][masked])})

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
