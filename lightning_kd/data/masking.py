"""Selection and replacement of tokens for masked language models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_kd.outputs import IGNORE_INDEX

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Masking:
    """BERT's masking: of the selected tokens, 80 % become the mask, 10 % a random token, and 10 % are kept.

    Devlin et al. 2019, BERT, section 3.1. Special tokens are never selected.

    Attributes:
        probability: Fraction of the tokens to select, in (0, 1).
        mask_token_id: Id of the mask.
        special_ids: Ids that are never selected.
        vocab_size: Number of tokens from which the random ones are drawn.
        token_weights: Relative probability that each id is selected, (vocabulary,); None for equal weights.
    """

    probability: float
    mask_token_id: int
    special_ids: IntArray
    vocab_size: int
    token_weights: NDArray[np.float64] | None = None

    def apply(
        self, ids: IntArray, word_ids: IntArray | None, generator: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Mask some tokens of an example.

        Args:
            ids: Token ids without padding, (L,).
            word_ids: Word of each token, (L,), to select whole words; None to select tokens.
            generator: Source of randomness.

        Returns:
            The masked ids and the labels, which are the original ids or ``IGNORE_INDEX``, both (L,).
        """
        selected = self._select(ids, word_ids, generator)
        labels = np.where(selected, ids, IGNORE_INDEX)
        draws = generator.random(len(ids))
        masked_ids = np.where(selected & (draws < 0.8), self.mask_token_id, ids)
        replaced = selected & (draws >= 0.8) & (draws < 0.9)
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
        # the expected number, randomly rounded up or down
        count = int(self.probability * len(candidates) + generator.random())
        selected = np.zeros(len(ids), dtype=bool)
        if count:
            weights = self.token_weights[ids[candidates]]
            selected[generator.choice(candidates, count, replace=False, p=weights / weights.sum())] = True
        return selected


def smoothed_weights(counts: IntArray, smoothing: float) -> NDArray[np.float64]:
    """Return weights that select rare tokens more often: count to the power of -smoothing.

    Mikolov et al. 2013 subsample frequent words this way; Lample and Conneau 2019 (XLM) and DistilBERT's published code
    (smoothing 0.7) select the tokens to mask. A count of 0 is treated as 1.

    Args:
        counts: Count of each token in the corpus, (vocabulary,).
        smoothing: Exponent; 0 for equal weights.
    """
    return np.maximum(counts, 1) ** -float(smoothing)
