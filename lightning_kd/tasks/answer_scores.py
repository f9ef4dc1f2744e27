"""Exact match and F1 of answers to questions that span several windows."""

import re
import string
from collections import Counter

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_answer(answer: str, references: list[str], allow_no_answer: bool) -> tuple[float, float]:
    """Return exact match and F1 of an answer, in %, as SQuAD's official scripts compute them.

    Texts are compared by their words in lower case, without punctuation and articles. If no word remains, F1 is 0 in
    v1.1; v2.0 drops such references and, if none remains, accepts only an answer without words. Not
    torchmetrics' ``squad`` (1.9), whose F1 of two texts without words is 100 in both versions.

    Args:
        answer: The predicted text; empty = no answer.
        references: The correct answers, of which the best match counts; empty = the question is unanswerable.
        allow_no_answer: If True, score as v2.0, which has unanswerable questions; otherwise as v1.1.
    """
    words, correct = _words(answer), [_words(reference) for reference in references]
    if allow_no_answer:
        correct = [reference for reference in correct if reference]
        if not correct:
            return (0.0, 0.0) if words else (100.0, 100.0)
    return 100.0 * (words in correct), 100.0 * max(_word_f1(words, reference) for reference in correct)


def _words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def _word_f1(answer: list[str], reference: list[str]) -> float:
    """Return the harmonic mean of precision and recall of the words; 0 without a common word."""
    num_common = (Counter(answer) & Counter(reference)).total()
    return 2 * num_common / (len(answer) + len(reference)) if num_common else 0.0


def argmax_per_group(groups: Tensor, scores: Tensor, ranks: Tensor) -> Tensor:
    """Return the index of the highest score of each group, for the groups in ascending order.

    Args:
        groups: Group of each element, (N,), integers.
        scores: (N,).
        ranks: (N,); the lowest rank wins among equal scores.
    """
    order = ranks.argsort(stable=True)
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[groups[order].argsort(stable=True)]
    _, counts = groups.unique(return_counts=True)
    return order[counts.cumsum(dim=0) - counts]


class AnswerScores(Metric):
    """Exact match and F1, averaged over questions, each with several windows in any order.

    The answer to a question is that of the window with the best span, the first among equal ones. The states are
    numbers, not texts, so that devices can exchange them; ``score_answer`` scores the answer of each window.

    Args:
        no_answer_threshold: See ``QuestionAnswering``.
    """

    full_state_update = False
    COLUMNS = ("score", "exact_match", "f1", "no_answer_score", "no_answer_is_correct")

    indices: list[Tensor]
    values: list[Tensor]

    def __init__(self, no_answer_threshold: float | None) -> None:
        super().__init__()
        self.no_answer_threshold = no_answer_threshold
        self.add_state("indices", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, indices: Tensor, values: Tensor) -> None:
        """Add windows.

        Args:
            indices: Index of the question and ``row_id`` of each window, (N, 2).
            values: ``COLUMNS`` of each window, (N, 5); exact match, F1 and ``no_answer_is_correct`` in %.
        """
        self.indices.append(indices)
        self.values.append(values)

    def per_question_scores(self) -> dict[str, Tensor]:
        """Return ``exact_match`` and ``f1`` of each question, in %, (Q,)."""
        question, row_id = dim_zero_cat(self.indices).unbind(dim=1)
        values = dict(zip(self.COLUMNS, dim_zero_cat(self.values).unbind(dim=1), strict=True))
        best = argmax_per_group(question, values["score"], row_id)
        scores = {name: values[name][best] for name in ("exact_match", "f1")}
        if self.no_answer_threshold is not None:
            no_answer_score = values["no_answer_score"][argmax_per_group(question, -values["no_answer_score"], row_id)]
            unanswered = no_answer_score - values["score"][best] > self.no_answer_threshold
            no_answer_correct = values["no_answer_is_correct"][best]
            scores = {name: torch.where(unanswered, no_answer_correct, score) for name, score in scores.items()}
        return scores

    def compute(self) -> dict[str, Tensor]:
        """Return ``exact_match`` and ``f1``, in %, averaged over the questions."""
        return {name: scores.mean() for name, scores in self.per_question_scores().items()}


class PerQuestionF1(AnswerScores):
    """F1 of each question, in %, (Q,)."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return F1 in the order of the question index."""
        return self.per_question_scores()["f1"]
