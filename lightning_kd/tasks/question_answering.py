"""Extractive question answering: a span of the context."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_kd.outputs import Batch, Head, Outputs
from lightning_kd.tasks.answer_scores import AnswerScores, PerQuestionF1, score_answer
from lightning_kd.tasks.base import Task
from lightning_kd.tasks.carried_over import transfer_token_probabilities
from lightning_kd.tasks.spans import best_spans

CHANCE_F1 = 10.0
"""F1, in %, up to which a network may be guessing: random spans reach about 5 on SQuAD v1.1."""


class QuestionAnswering(Task):
    """Extractive question answering: two heads, ``start`` and ``end``, of logits (N, L) over the positions of a row.

    Only the context and the first position, ``[CLS]``, count; padding and question are masked out. A row that does not
    hold the answer points at ``[CLS]`` (Devlin et al. 2019, BERT, section 4.3). Scored by ``exact_match`` and ``f1`` by
    SQuAD's rules (Rajpurkar et al. 2016), in %, over questions, not rows.

    A batch has ``context_span`` (B, 2), the first position of the context and the one after its last; to train
    ``start_positions`` and ``end_positions`` (B,), -100 where unknown; to answer also ``offsets`` (B, L, 2), the
    characters of the context each position stands for, and lists of B texts, ``id``, ``question`` and ``context``; to
    score also ``answers``, a list of B lists of texts, ``question_index`` (B,), and ``window_index`` (B,), 0 for the
    first row of a question.

    Args:
        max_answer_length: Positions (tokens) of the longest answer, >= 1.
        no_answer_threshold: For data with questions that have no answer (SQuAD v2.0): a question gets none if the
            score of ``[CLS]``, the lowest of its rows, exceeds that of the best span by more than this. None = each
            question gets an answer (v1.1).

    Raises:
        ValueError: If an argument is out of range.
    """

    auto_class = "AutoModelForQuestionAnswering"
    pipeline = "question-answering"
    heads = ("start", "end")
    label_keys = frozenset({"start_positions", "end_positions"})
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
        """Refuse data with questions that have no answer where there is no threshold, and data with labels."""
        if datamodule.label_names:
            raise ValueError(
                f"task: QuestionAnswering does not fit {datamodule.class_name}, whose rows have labels; use "
                "SQuADDataModule, or the task SequenceClassification"
            )
        if datamodule.has_unanswerable and self.no_answer_threshold is None:
            raise ValueError(
                "task.no_answer_threshold: none given, and the data (version 2.0) have questions without an answer; "
                "give one, for instance --model.task.init_args.no_answer_threshold=0.0"
            )

    def outputs(self, model_output: Any, batch: Batch) -> Outputs:
        """The heads ``start`` and ``end``; rows with ``row_id`` -1 only pad an evaluation batch and are left out."""
        keep = self._example_mask(batch)
        logits = {name: getattr(model_output, f"{name}_logits") for name in self.heads}
        return self.from_logits({n: part if keep is None else part[keep] for n, part in logits.items()}, batch)

    def from_logits(self, logits: dict[str, Tensor], batch: Batch) -> Outputs:
        """The heads ``start`` and ``end``."""
        mask = self._context_mask(batch)
        mask[:, 0] = True
        keep = self._example_mask(batch)
        heads = {}
        for name, values in logits.items():
            labels = batch.get(f"{name}_positions")
            if keep is None:
                heads[name] = Head(values, labels, mask)
            else:
                heads[name] = Head(values, None if labels is None else labels[keep], mask[keep])
        return Outputs(heads)

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """The probabilities of the teacher's tokens carried over to the student's that hold the same characters."""
        keep = self._example_mask(batch)
        logits = {}
        for name, key in zip(self.heads, ("student_start", "student_end"), strict=True):
            target_index = teacher_inputs[key] if keep is None else teacher_inputs[key][keep]
            head = outputs.heads[name]
            assert head.mask is not None  # from_logits has made it
            logits[name] = transfer_token_probabilities(
                head.logits, head.mask, target_index, batch["input_ids"].shape[1]
            )
        return self.from_logits(logits, batch)

    @staticmethod
    def _context_mask(batch: Batch) -> Tensor:
        """Which positions hold the context, (B, L)."""
        positions = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
        tokens: Tensor = batch["context_span"]
        first, after_last = tokens.unsqueeze(-1).unbind(dim=1)
        return (positions >= first) & (positions < after_last)

    @staticmethod
    def _example_mask(batch: Batch) -> Tensor | None:
        """Which rows count, (B,); None where all do."""
        keep = batch["row_id"] >= 0 if "row_id" in batch else None
        return None if keep is None or bool(keep.all()) else keep

    def _best_answers(self, outputs: Outputs, batch: Batch) -> Iterator[tuple[int, str, float, float]]:
        """Of each row that counts: its place in the batch, its answer, and the scores of this and of no answer."""
        start, end = (outputs.heads[name].logits.float() for name in self.heads)
        keep = self._example_mask(batch)
        context, offsets = self._context_mask(batch), batch["offsets"]
        numbers = torch.arange(len(context), device=context.device)
        if keep is not None:
            context, offsets, numbers = context[keep], offsets[keep], numbers[keep]
        spans = best_spans(start, end, context, self.max_answer_length)
        rows = torch.arange(len(context), device=context.device)
        first, last = offsets[rows, spans.start, 0], offsets[rows, spans.end, 1]
        columns = (numbers, first, last, spans.score, start[:, 0] + end[:, 0])
        for number, begin, stop, score, no_answer in zip(*(column.tolist() for column in columns), strict=True):
            # tokens of some tokenizers begin with the space before the word
            yield number, batch["context"][number][begin:stop].strip(), score, no_answer

    def metrics(self, label_names: list[str]) -> MetricCollection:
        """Exact match and F1."""
        return MetricCollection({"squad": AnswerScores(self.no_answer_threshold)})

    def per_example_metric(self) -> Metric:
        """F1 of each question, in %."""
        return PerQuestionF1(self.no_answer_threshold)

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Count the best answer in each row.

        Raises:
            ValueError: If a question has no answer and ``no_answer_threshold`` is None.
        """
        indices: list[int] = []
        values: list[tuple[float, ...]] = []
        for number, answer, score, no_answer_score in self._best_answers(outputs, batch):
            references = batch["answers"][number]
            if not references and self.no_answer_threshold is None:
                raise ValueError(
                    f"task.no_answer_threshold: none given, and question {batch['id'][number]!r} has no answer; "
                    "give one, for instance 0.0, or use data where each question has an answer"
                )
            indices.append(number)
            values.append((score, *score_answer(answer, references), no_answer_score, 0.0 if references else 100.0))
        device = outputs.heads["start"].logits.device
        table = torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, len(AnswerScores.COLUMNS))
        row_ids = batch.get("row_id", torch.arange(len(batch["question_index"]), device=device))
        metrics.update(torch.stack([batch["question_index"], row_ids], dim=1)[indices], table)

    def label_counts(self, outputs: Outputs, batch: Batch) -> Tensor:
        """How many questions have an answer and how many do not, (2,)."""
        if "answers" not in batch:
            raise ValueError("the questions have no answers, so they cannot be scored; add them, or use predict")
        parts, rows = batch["window_index"].tolist(), batch["row_id"].tolist()
        first = [bool(a) for a, part, row in zip(batch["answers"], parts, rows, strict=True) if part == 0 and row >= 0]
        return torch.tensor([sum(first), len(first) - sum(first)], device=outputs.heads["start"].logits.device)

    def baseline_score(self, label_counts: Tensor) -> float:
        """What guessing reaches: ``CHANCE_F1``, or with a threshold the share of questions without an answer, in %."""
        no_answer_rate = (
            0.0 if self.no_answer_threshold is None else float(label_counts[1] / label_counts.sum().clamp(min=1))
        )
        return max(CHANCE_F1, 100 * no_answer_rate)

    def predictions(self, outputs: Outputs, batch: Batch, label_names: list[str]) -> list[dict[str, Any]]:
        """The best answer in each row, with its score and the score of no answer."""
        return [
            {
                "id": batch["id"][number],
                "question": batch["question"][number],
                "answer": answer,
                "score": score,
                "no_answer_score": no_answer_score,
            }
            for number, answer, score, no_answer_score in self._best_answers(outputs, batch)
        ]

    def merge_predictions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The best answer to each question over its rows, of equal ones the first; an empty text for no answer."""
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
