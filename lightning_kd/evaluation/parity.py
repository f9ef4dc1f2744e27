"""Comparison of an exported model with the original."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lightning_kd.outputs import Batch, predictions_agree
from lightning_kd.tasks.base import Task


@dataclass(frozen=True)
class Parity:
    """Differences between two models on the same examples.

    Attributes:
        num_predictions: Number of predictions: one per example and head, in masked LM one per masked token.
        max_difference: Largest difference between two logits.
        num_changed: Number of predictions that differ.
    """

    num_predictions: int
    max_difference: float
    num_changed: int

    def __str__(self) -> str:
        changed = f"{self.num_changed} of {self.num_predictions} predictions changed"
        return f"largest difference of a logit {self.max_difference:.2g}, {changed}"


@torch.no_grad()
def measure_parity(
    task: Task, original: nn.Module, exported: nn.Module, batches: Iterable[Batch], name: str = "the graph"
) -> Parity:
    """Run two models on the same batches and compare their outputs.

    Args:
        task: The task of both models, which have the same label order.
        original: The original model, in eval mode on the CPU.
        exported: The exported model, in eval mode on the CPU.
        batches: Batches on the CPU.
        name: The exported model, for the message.

    Raises:
        FloatingPointError: If a logit of either is NaN or infinite, see ``Task.check_finite``.
    """
    num_predictions = num_changed = 0
    max_difference = 0.0
    for batch in batches:
        outputs, exported_outputs = task.run(original, batch), task.run(exported, batch)
        task.check_finite(outputs, batch, "the student")
        task.check_finite(exported_outputs, batch, name)
        for head, exported_head in outputs.zip_heads(exported_outputs):
            logits, exported_logits = head.logits.float(), exported_head.logits.float()
            difference = (logits - exported_logits).abs()
            if head.mask is not None:
                difference = difference.masked_fill(~head.mask, 0.0)
            if difference.numel():
                max_difference = max(max_difference, difference.max().item())
            num_predictions += head.prediction.numel()
            num_changed += int((~predictions_agree(head.prediction, exported_head.prediction)).sum())
    return Parity(num_predictions, max_difference, num_changed)
