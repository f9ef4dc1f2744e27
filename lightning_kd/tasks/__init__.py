"""Tasks: heads, targets, metrics and predictions."""

from lightning_kd.tasks.base import Task
from lightning_kd.tasks.masked_lm import MaskedLM
from lightning_kd.tasks.question_answering import QuestionAnswering
from lightning_kd.tasks.sequence_classification import SequenceClassification

__all__ = ["MaskedLM", "QuestionAnswering", "SequenceClassification", "Task"]
