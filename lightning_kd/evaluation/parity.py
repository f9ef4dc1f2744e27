"""Whether an exported network still says what the original says."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task


@dataclass(frozen=True)
class Parity:
    """How far two networks are apart on the same rows.

    Attributes:
        decisions: How often a class was chosen: once a row and head, in masked LM once a masked token.
        max_difference: The largest difference of two logits that count.
        changed: How many decisions are another class.
    """

    decisions: int
    max_difference: float
    changed: int

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.max_difference:.2g}, {self.changed} of {self.decisions} predictions "
            "changed"
        )


@torch.no_grad()
def compare(task: Task, original: nn.Module, exported: nn.Module, batches: Iterable[Batch]) -> Parity:
    """Run both on the same batches.

    Args:
        task: The task whose heads both have, in the same order of labels.
        original: In eval mode, on the CPU.
        exported: Likewise.
        batches: On the CPU.
    """
    decisions = changed = 0
    largest = 0.0
    for batch in batches:
        ours, theirs = task.run(original, batch), task.run(exported, batch)
        for one, other in ours.paired_with(theirs):
            first, second = one.logits.float(), other.logits.float()
            counts = torch.isfinite(first) if one.mask is None else torch.isfinite(first) & one.mask
            if counts.any():
                # a logit that became NaN is no small difference
                largest = max(largest, (first - second)[counts].nan_to_num(nan=torch.inf).abs().max().item())
            decisions += len(first)
            changed += int((one.decision != other.decision).sum())
    return Parity(decisions, largest, changed)
