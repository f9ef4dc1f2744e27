"""Extractive question answering."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_kd.outputs import Batch, Outputs
from lightning_kd.tasks.answer_scores import AnswerScores, PerQuestionF1, score_answer
from lightning_kd.tasks.base import Task
from lightning_kd.tasks.spans import best_spans
from lightning_kd.tasks.token_transfer import transfer_token_probabilities

CHANCE_F1 = 10.0
"""F1, in %, that a model can reach by chance; random spans reach about 5 on SQuAD v1.1."""


class QuestionAnswering(Task):
    """Extractive question answering with two heads, ``start`` and ``end``: logits (N, L) over the input positions.

    An example is a window: a question with a part of its context. Only the context and the first position, ``[CLS]``,
    are classes; question and padding are masked. The labels of a window without the answer are ``[CLS]`` (Devlin et al.
    2019, BERT, section 4.3). Scored by ``exact_match`` and ``f1`` as in the official scripts (Rajpurkar et al. 2016,
    2018), in %, over questions.

    Batch keys:

    - always ``context_span`` (B, 2), the first position of the context and the one after its last;
    - for training ``start_positions`` and ``end_positions`` (B,), -100 = unknown;
    - for predictions ``offsets`` (B, L, 2), the span of characters of the context that each position covers, and
      ``id``, ``question`` and ``context``, lists of B texts;
    - for scores also ``answers``, a list of B lists of texts, ``question_index`` (B,), and ``window_index`` (B,), 0 for
      the first window of a question.

    Args:
        max_answer_length: Maximum number of tokens of an answer, >= 1.
        no_answer_threshold: For data with unanswerable questions (SQuAD v2.0): predict no answer if the score of
            ``[CLS]``, the lowest over the windows, exceeds that of the best span by more than this; score as v2.0.
            None = always predict an answer; score as v1.1.

    Raises:
        ValueError: If an argument is out of range.
    """

    auto_class = "AutoModelForQuestionAnswering"
    pipeline = "question-answering"
    heads = ("start", "end")
    label_keys = ("start_positions", "end_positions")
    named_labels = False
    num_labels = 2
    predicts_positions = True
    logits_per_token = True
    monitor = "f1"
    example_unit = "questions"
    prediction_file = "predictions.json"

    def __init__(self, max_answer_length: int = 30, no_answer_threshold: float | None = None) -> None:
        if max_answer_length < 1:
            raise ValueError(f"task.max_answer_length: must be >= 1, got {max_answer_length}")
        if no_answer_threshold is not None and not math.isfinite(no_answer_threshold):
            raise ValueError(f"task.no_answer_threshold: must be a finite number or null, got {no_answer_threshold}")
        self.max_answer_length = max_answer_length
        self.no_answer_threshold = no_answer_threshold

    def check_data(self, datamodule: Any) -> None:
        """Check that the data have no label names, and no unanswerable questions unless there is a threshold."""
        if datamodule.label_names:
            raise ValueError(
                f"task: QuestionAnswering does not fit {datamodule.class_name}, whose examples have labels; use "
                "SQuADDataModule, or the task SequenceClassification"
            )
        if datamodule.has_unanswerable and self.no_answer_threshold is None:
            raise ValueError(
                "task.no_answer_threshold: is null, but the data (version 2.0) have unanswerable questions; set it, "
                "for instance --model.task.init_args.no_answer_threshold=0.0"
            )

    def head_logits(self, model_output: Any) -> dict[str, Tensor]:
        """Return ``start_logits`` and ``end_logits``, (B, L)."""
        return {name: getattr(model_output, f"{name}_logits") for name in self.heads}

    def class_mask(self, batch: Batch) -> Tensor:
        """Return the positions of the context and ``[CLS]``, (B, L)."""
        mask = self._context_mask(batch)
        mask[:, 0] = True
        return mask

    @staticmethod
    def _context_mask(batch: Batch) -> Tensor:
        """Return the positions of the context, (B, L)."""
        positions = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
        span: Tensor = batch["context_span"]
        first, after_last = span.unsqueeze(-1).unbind(dim=1)
        return (positions >= first) & (positions < after_last)

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """Transfer the teacher's probabilities to the student's tokens that cover the same characters."""
        targets = self.target_mask(batch)
        logits = {}
        for name, head in outputs.heads.items():
            index = teacher_inputs[f"student_{name}"] if targets is None else teacher_inputs[f"student_{name}"][targets]
            assert head.mask is not None  # class_mask is never None
            logits[name] = transfer_token_probabilities(head.logits, head.mask, index, batch["input_ids"].shape[1])
        return self.from_logits(logits, batch)

    def _best_answers(self, outputs: Outputs, batch: Batch) -> Iterator[tuple[int, str, float, float]]:
        """Yield for each target window its index in the batch, the answer, its score, and the no-answer score."""
        start, end = (outputs.heads[name].logits.float() for name in self.heads)
        targets = self.target_mask(batch)
        context, offsets = self._context_mask(batch), batch["offsets"]
        indices = torch.arange(len(context), device=context.device)
        if targets is not None:
            context, offsets, indices = context[targets], offsets[targets], indices[targets]
        spans = best_spans(start, end, context, self.max_answer_length)
        windows = torch.arange(len(context), device=context.device)
        first, after_last = offsets[windows, spans.start, 0], offsets[windows, spans.end, 1]
        columns = (indices, first, after_last, spans.score, start[:, 0] + end[:, 0])
        for index, begin, stop, score, no_answer in zip(*(column.tolist() for column in columns), strict=True):
            # tokens of some tokenizers include the space before a word
            yield index, batch["context"][index][begin:stop].strip(), score, no_answer

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Return exact match and F1."""
        return MetricCollection({"squad": AnswerScores(self.no_answer_threshold)})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Update the metrics with the best answer of each window.

        Raises:
            ValueError: If a question is unanswerable and ``no_answer_threshold`` is None.
        """
        indices: list[int] = []
        values: list[tuple[float, ...]] = []
        for index, answer, score, no_answer_score in self._best_answers(outputs, batch):
            references = batch["answers"][index]
            if not references and self.no_answer_threshold is None:
                raise ValueError(
                    f"task.no_answer_threshold: is null, but question {batch['id'][index]!r} has no answer; set it, "
                    "for instance to 0.0, or use data in which each question has an answer"
                )
            indices.append(index)
            allow_no_answer = self.no_answer_threshold is not None
            no_answer_is_correct, _ = score_answer("", references, allow_no_answer)
            values.append(
                (score, *score_answer(answer, references, allow_no_answer), no_answer_score, no_answer_is_correct)
            )
        device = outputs.heads["start"].logits.device
        table = torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, len(AnswerScores.COLUMNS))
        row_ids = batch.get("row_id", torch.arange(len(batch["question_index"]), device=device))
        metrics.update(torch.stack([batch["question_index"], row_ids], dim=1)[indices], table)

    def is_labeled(self, batch: Batch) -> bool:
        """Return True if the questions have answers."""
        return "answers" in batch

    def per_example_metric(self) -> Metric:
        """Return the F1 of each question, in %."""
        return PerQuestionF1(self.no_answer_threshold)

    def baseline_statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the number of answerable and of unanswerable questions, (2,)."""
        if "answers" not in batch:
            raise ValueError("answers: the questions have none, so they cannot be scored; add answers, or use predict")
        windows, row_ids = batch["window_index"].tolist(), batch["row_id"].tolist()
        answerable = [
            bool(answers)
            for answers, window, row_id in zip(batch["answers"], windows, row_ids, strict=True)
            if window == 0 and row_id >= 0
        ]
        counts = [sum(answerable), len(answerable) - sum(answerable)]
        return torch.tensor(counts, device=outputs.heads["start"].logits.device)

    def baseline_score(self, statistics: Tensor) -> float:
        """Return ``CHANCE_F1`` or, with a threshold, the percentage of unanswerable questions if that is higher."""
        if self.no_answer_threshold is None:
            return CHANCE_F1
        return max(CHANCE_F1, 100 * float(statistics[1] / statistics.sum().clamp(min=1)))

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """Return the best answer of each window, its score, and the no-answer score."""
        return [
            {
                "id": batch["id"][index],
                "question": batch["question"][index],
                "answer": answer,
                "score": score,
                "no_answer_score": no_answer_score,
            }
            for index, answer, score, no_answer_score in self._best_answers(outputs, batch)
        ]

    def merge_predictions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the best answer to each question over its windows, the first of equal ones; empty = no answer."""
        merged: dict[str, dict[str, Any]] = {}
        for row in rows:
            best = merged.setdefault(row["id"], dict(row))
            if row["score"] > best["score"]:
                best.update({name: value for name, value in row.items() if name != "no_answer_score"})
            best["no_answer_score"] = min(best["no_answer_score"], row["no_answer_score"])
        for row in merged.values():
            if self.no_answer_threshold is None:
                del row["no_answer_score"]
            elif row["no_answer_score"] - row["score"] > self.no_answer_threshold:
                row["answer"] = ""
            for name in ("score", "no_answer_score"):
                if name in row:
                    row[name] = round(row[name], 4)
        return list(merged.values())

    def prediction_json(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Return the answers by question id, the file that SQuAD's official scripts score."""
        return {row["id"]: row["answer"] for row in rows}
