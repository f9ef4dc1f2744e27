"""Text augmentation."""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter

import numpy as np
from numpy.typing import NDArray

COMBINING_MARKS = "".join(chr(code) for code in range(0x300, 0x3100) if unicodedata.category(chr(code)).startswith("M"))
"""Marks that belong to the letter before them, such as the vowels of Hindi."""

WORD_PATTERN = re.compile(rf"[\w{COMBINING_MARKS}]+")


class Augmentation(ABC):
    """Base class of text augmentations."""

    @abstractmethod
    def fit(self, texts: list[str]) -> None:
        """Collect statistics of the training texts."""

    @abstractmethod
    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """Return an augmented text; the generator is the only source of randomness."""


class TfIdfReplacement(Augmentation):
    r"""Replaces uninformative words with other uninformative words, so that a text keeps its topic.

    A word is replaced with a probability that decreases with its TF-IDF in the text,

    .. math:: \min\Bigl(p \, \frac{C - tfidf(x_i)}{Z}, 1\Bigr), \quad C = \max_i tfidf(x_i), \quad
              Z = \frac{1}{|x|} \sum_i (C - tfidf(x_i)),

    by a word drawn from the vocabulary with a probability proportional to max S - S(w), where S(w) is the word's count
    in the corpus times its IDF. Xie et al. 2020, Unsupervised Data Augmentation for Consistency Training,
    section 2.3 and appendix.

    Words are separated by spaces and punctuation; Chinese, Japanese or Thai need another ``Augmentation``.

    Args:
        probability: p, approximately the fraction of the words that are replaced, in (0, 1].

    Raises:
        ValueError: If ``probability`` is out of range.
    """

    def __init__(self, probability: float = 0.3) -> None:
        if not 0 < probability <= 1:
            raise ValueError(f"TfIdfReplacement.probability: must be in (0, 1], got {probability}")
        self.probability = probability
        self._idf: dict[str, float] = {}
        self._vocabulary: list[str] = []
        self._cumulative_weights: NDArray[np.float64] = np.empty(0)

    def fit(self, texts: list[str]) -> None:
        """Count words; the IDF is the negative logarithm of the fraction of the texts that contain a word."""
        documents = [[word.casefold() for word in WORD_PATTERN.findall(text)] for text in texts]
        counts = Counter(word for document in documents for word in document)
        document_counts = Counter(word for document in documents for word in set(document))
        self._vocabulary = sorted(counts)
        self._idf = {word: float(np.log(len(documents) / document_counts[word])) for word in self._vocabulary}
        scores = np.array([counts[word] * self._idf[word] for word in self._vocabulary])
        weights = scores.max(initial=0) - scores
        if not weights.any():  # all scores are equal
            weights = np.ones_like(weights)
        self._cumulative_weights = np.cumsum(weights / weights.sum()) if len(weights) else weights

    def replacement_probabilities(self, text: str) -> NDArray[np.float64]:
        """Return the probability that each word of a text is replaced, (number of words,)."""
        words = [word.casefold() for word in WORD_PATTERN.findall(text)]
        counts = Counter(words)
        scores = np.array([counts[word] / len(words) * self._idf.get(word, 0.0) for word in words])
        margins = scores.max(initial=0) - scores
        if not margins.any():  # all scores are equal
            return np.full(len(words), self.probability if len(words) > 1 else 0.0)
        probabilities: NDArray[np.float64] = np.minimum(self.probability * margins / margins.mean(), 1.0)
        return probabilities

    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """Return the text with some words replaced; spaces and punctuation are kept."""
        mask = generator.random(len(WORD_PATTERN.findall(text))) < self.replacement_probabilities(text)
        sampled = np.searchsorted(self._cumulative_weights, generator.random(int(mask.sum())), side="right")
        replacements = iter(sampled.clip(max=len(self._vocabulary) - 1).tolist())
        is_replaced = iter(mask.tolist())
        return WORD_PATTERN.sub(
            lambda match: self._vocabulary[next(replacements)] if next(is_replaced) else match[0], text
        )
