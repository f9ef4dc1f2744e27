"""Other wordings of a text."""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter

import numpy as np
from numpy.typing import NDArray

MARKS = "".join(chr(code) for code in range(0x300, 0x3100) if unicodedata.category(chr(code)).startswith("M"))
"""Signs that belong to the letter before them, such as the vowels of Hindi."""

WORD = re.compile(rf"[\w{MARKS}]+")


class Augmentation(ABC):
    """Makes other wordings of a text."""

    @abstractmethod
    def fit(self, texts: list[str]) -> None:
        """Learn from the texts to train on what there is to learn."""

    @abstractmethod
    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """Another wording, drawn from the generator alone."""


class TfIdfReplacement(Augmentation):
    r"""Replaces words that say little by others that say little; what a text is about stays.

    A word is replaced with a probability that falls with its TF-IDF in the text,

    .. math:: \min\Bigl(p \, \frac{C - tfidf(x_i)}{Z}, 1\Bigr), \quad C = \max_i tfidf(x_i), \quad
              Z = \frac{1}{|x|} \sum_i (C - tfidf(x_i)),

    by one that is drawn from the vocabulary with a probability proportional to max S - S(w), where S(w) is the word's
    count in the corpus times its IDF. Xie et al. 2020, Unsupervised Data Augmentation for Consistency Training,
    section 2.3 and appendix.

    Words are what stands between spaces and punctuation: Chinese, Japanese or Thai need an ``Augmentation`` of their
    own.

    Args:
        probability: p, about the share of the words that are replaced, in (0, 1].

    Raises:
        ValueError: If ``probability`` is out of range.
    """

    def __init__(self, probability: float = 0.3) -> None:
        if not 0 < probability <= 1:
            raise ValueError(f"TfIdfReplacement.probability: must be in (0, 1], got {probability}")
        self.probability = probability
        self._idf: dict[str, float] = {}
        self._words: list[str] = []
        self._cumulated: NDArray[np.float64] = np.empty(0)

    def fit(self, texts: list[str]) -> None:
        """Count the words: their IDF is the logarithm of the share of the texts that hold them, negated."""
        rows = [[word.casefold() for word in WORD.findall(text)] for text in texts]
        counts = Counter(word for row in rows for word in row)
        within = Counter(word for row in rows for word in set(row))
        self._words = sorted(counts)
        self._idf = {word: float(np.log(len(rows) / within[word])) for word in self._words}
        scores = np.array([counts[word] * self._idf[word] for word in self._words])
        weights = scores.max(initial=0) - scores
        if not weights.any():  # all alike
            weights = np.ones_like(weights)
        self._cumulated = np.cumsum(weights / weights.sum()) if len(weights) else weights

    def replacement_probabilities(self, text: str) -> NDArray[np.float64]:
        """How likely each word of a text is to be replaced, (number of words,)."""
        words = [word.casefold() for word in WORD.findall(text)]
        counts = Counter(words)
        scores = np.array([counts[word] / len(words) * self._idf.get(word, 0.0) for word in words])
        spare = scores.max(initial=0) - scores
        if not spare.any():  # all say the same
            return np.full(len(words), self.probability if len(words) > 1 else 0.0)
        chances: NDArray[np.float64] = np.minimum(self.probability * spare / spare.mean(), 1.0)
        return chances

    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """The text with some words replaced; what stands between words stays."""
        replaced = generator.random(len(WORD.findall(text))) < self.replacement_probabilities(text)
        drawn = np.searchsorted(self._cumulated, generator.random(int(replaced.sum())), side="right")
        others = iter(drawn.clip(max=len(self._words) - 1).tolist())
        chosen = iter(replaced.tolist())
        return WORD.sub(lambda match: self._words[next(others)] if next(chosen) else match[0], text)
