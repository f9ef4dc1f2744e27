"""Which tokens a masked language model has to guess."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_kd.outputs import IGNORE_INDEX

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Masking:
    """Chooses tokens and hides them: 80 % become the mask, 10 % another token, 10 % stay.

    Devlin et al. 2019, BERT, section 3.1. Special tokens are never chosen.

    Attributes:
        probability: Share of the tokens to choose, in (0, 1).
        mask_token_id: Id of the mask.
        special_ids: Ids that are never chosen.
        vocab_size: Number of tokens that one may be replaced by.
        token_weights: How likely each id is to be chosen among the tokens of a row, (vocabulary,); None = all alike.
    """

    probability: float
    mask_token_id: int
    special_ids: IntArray
    vocab_size: int
    token_weights: NDArray[np.float64] | None = None

    def apply(
        self, ids: IntArray, word_ids: IntArray | None, generator: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Hide some tokens of a row.

        Args:
            ids: (L,), without padding.
            word_ids: Which word each token belongs to, (L,): words are chosen whole. None = each token on its own.
            generator: What is drawn from.

        Returns:
            The ids to show and the labels, the hidden ids or ``IGNORE_INDEX``, both (L,).
        """
        chosen = self._select(ids, word_ids, generator)
        labels = np.where(chosen, ids, IGNORE_INDEX)
        draws = generator.random(len(ids))
        masked_ids = np.where(chosen & (draws < 0.8), self.mask_token_id, ids)
        replaced = chosen & (draws >= 0.8) & (draws < 0.9)
        masked_ids[replaced] = generator.integers(self.vocab_size, size=int(replaced.sum()))
        return masked_ids, labels

    def _select(self, ids: IntArray, word_ids: IntArray | None, generator: np.random.Generator) -> NDArray[np.bool_]:
        allowed = ~np.isin(ids, self.special_ids)
        if word_ids is not None:
            _, word_index = np.unique(word_ids, return_inverse=True)
            return allowed & (generator.random(len(ids)) < self.probability)[word_index]
        if self.token_weights is None:
            return allowed & (generator.random(len(ids)) < self.probability)
        candidates = np.flatnonzero(allowed)
        # the expected number, rounded up or down by chance
        count = int(self.probability * len(candidates) + generator.random())
        chosen = np.zeros(len(ids), dtype=bool)
        if count:
            weights = self.token_weights[ids[candidates]]
            chosen[generator.choice(candidates, count, replace=False, p=weights / weights.sum())] = True
        return chosen


def smoothed_weights(counts: IntArray, smoothing: float) -> NDArray[np.float64]:
    """Weights that choose rare tokens more often: count to the power of -smoothing.

    Mikolov et al. 2013 subsample frequent words like this; Lample and Conneau 2019 (XLM) and DistilBERT's published
    code (smoothing 0.7) choose the tokens to mask. A token that never occurs counts as one that occurs once.

    Args:
        counts: How often each token occurs in the corpus, (vocabulary,).
        smoothing: 0 = all alike.
    """
    return np.maximum(counts, 1) ** -float(smoothing)
