"""Whether an exported network still says what the original says."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lightning_kd.outputs import Batch, predictions_agree
from lightning_kd.tasks.base import Task


@dataclass(frozen=True)
class Parity:
    """How far two networks are apart on the same rows.

    Attributes:
        num_predictions: How often a class was chosen: once a row and head, in masked LM once a masked token.
        max_difference: The largest difference of two logits that count.
        num_changed: How many decisions are another class.
    """

    num_predictions: int
    max_difference: float
    num_changed: int

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.max_difference:.2g}, {self.num_changed} of {self.num_predictions} "
            f"predictions "
            "changed"
        )


@torch.no_grad()
def measure_parity(task: Task, original: nn.Module, exported: nn.Module, batches: Iterable[Batch]) -> Parity:
    """Run both on the same batches.

    Args:
        task: The task whose heads both have, in the same order of labels.
        original: In eval mode, on the CPU.
        exported: Likewise.
        batches: On the CPU.
    """
    num_predictions = num_changed = 0
    max_difference = 0.0
    for batch in batches:
        ours, theirs = task.run(original, batch), task.run(exported, batch)
        for one, other in ours.zip_heads(theirs):
            first, second = one.logits.float(), other.logits.float()
            valid = torch.isfinite(first) if one.mask is None else torch.isfinite(first) & one.mask
            if valid.any():
                # a logit that became NaN is no small difference
                max_difference = max(
                    max_difference, (first - second)[valid].nan_to_num(nan=torch.inf).abs().max().item()
                )
            num_predictions += one.prediction.numel()
            num_changed += int((~predictions_agree(one.prediction, other.prediction)).sum())
    return Parity(num_predictions, max_difference, num_changed)
