"""Exact match and F1 of answers that may come from several rows each."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import squad
from torchmetrics.utilities import dim_zero_cat


def score_answer(answer: str, references: list[str]) -> tuple[float, float]:
    """Exact match and F1 of an answer, in %, by SQuAD's rules: the best over the references.

    Args:
        answer: The predicted text; empty = there is no answer.
        references: The texts that are right; none = the question has no answer.
    """
    target = {"id": "", "answers": {"text": references or [""], "answer_start": []}}
    scores = squad([{"id": "", "prediction_text": answer}], [target])  # type: ignore[list-item]
    return float(scores["exact_match"]), float(scores["f1"])


def argmax_per_group(groups: Tensor, scores: Tensor, ranks: Tensor) -> Tensor:
    """Positions of the highest score of each group, the groups in ascending order.

    Args:
        groups: (N,), integers.
        scores: (N,).
        ranks: (N,); of equal scores the one of the lowest rank is taken.
    """
    order = ranks.argsort(stable=True)
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return order[is_first]


class AnswerScores(Metric):
    """Exact match and F1 over questions, each of which may have been cut into several rows, in any order.

    The answer to a question is that of its row with the best span, of equal ones the first. Exact match and F1 of each
    answer come from ``torchmetrics``; what is kept are numbers per row, which devices can exchange.

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
        """Add rows.

        Args:
            indices: The question each row belongs to, and the row's number, (N, 2).
            values: ``COLUMNS`` of each row, (N, 5), the three scores in %.
        """
        self.indices.append(indices)
        self.values.append(values)

    def per_question_scores(self) -> dict[str, Tensor]:
        """``exact_match`` and ``f1`` of each question, in %, (Q,)."""
        question, row = dim_zero_cat(self.indices).unbind(dim=1)
        values = dict(zip(self.COLUMNS, dim_zero_cat(self.values).unbind(dim=1), strict=True))
        rows = argmax_per_group(question, values["score"], row)
        exact_match, f1 = values["exact_match"][rows], values["f1"][rows]
        if self.no_answer_threshold is not None:
            no_answer_score = values["no_answer_score"][argmax_per_group(question, -values["no_answer_score"], row)]
            unanswered = no_answer_score - values["score"][rows] > self.no_answer_threshold
            no_answer_correct = values["no_answer_is_correct"][rows]
            exact_match, f1 = (
                torch.where(unanswered, no_answer_correct, exact_match),
                torch.where(unanswered, no_answer_correct, f1),
            )
        return {"exact_match": exact_match, "f1": f1}

    def compute(self) -> dict[str, Tensor]:
        """``exact_match`` and ``f1``, in %, mean over the questions."""
        return {name: scores.mean() for name, scores in self.per_question_scores().items()}


class PerQuestionF1(AnswerScores):
    """F1 of each question, in %, (Q,)."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """By question, in ascending order."""
        return self.per_question_scores()["f1"]
