"""A metric that keeps a number for each unit that is scored, instead of their mean."""

from collections.abc import Callable

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PerExampleScores(Metric):
    """Keeps what a function makes of each update, (N,), for intervals that need more than a mean.

    Args:
        score: Takes what ``update`` takes.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, score: Callable[..., Tensor]) -> None:
        super().__init__()
        self.score = score
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Score some units."""
        self.values.append(self.score(preds, target).float())

    def compute(self) -> Tensor:
        """All scores, (examples,)."""
        scores: Tensor = dim_zero_cat(self.values)
        return scores
