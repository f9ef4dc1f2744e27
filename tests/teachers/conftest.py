"""Teachers of all tasks, and a record of their calls."""

from collections import Counter

import pytest
from transformers import BertForMaskedLM, BertForQuestionAnswering

from lightning_kd import models
from lightning_kd.teachers import Teacher
from tests.helpers import save_model, tiny_bert

CLASSES = {
    "classes": {},
    "spans": {"labels": None, "model_class": BertForQuestionAnswering},
    "tokens": {"labels": None, "model_class": BertForMaskedLM},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folder of a teacher for each task, with logits far from 0."""
    folder = tmp_path_factory.mktemp("teachers")
    return {
        name: save_model(tiny_bert(seed=1, initializer_range=1.0, **settings), folder / name)
        for name, settings in CLASSES.items()
    }


class TeacherCalls:
    """The batches of row ids that teachers were called with, how many were loaded, and the dtypes of their logits."""

    def __init__(self):
        self.dtypes = set()
        self.reset()

    def reset(self):
        self.batches, self.loaded = [], 0

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]

    @property
    def row_counts(self):
        return Counter(row for batch in self.batches for row in batch if row >= 0)


@pytest.fixture
def teacher_calls(monkeypatch):
    calls = TeacherCalls()
    call, load_model = Teacher.__call__, models.load_model

    def recording_call(self, batch, requires=frozenset()):
        calls.batches.append(batch["row_id"].tolist())
        outputs = call(self, batch, requires)
        calls.dtypes |= {head.logits.dtype for head in outputs.heads.values()}
        return outputs

    def recording_load(source, auto_class, role, *args, **kwargs):
        calls.loaded += role == "teacher"
        return load_model(source, auto_class, role, *args, **kwargs)

    monkeypatch.setattr(Teacher, "__call__", recording_call)
    monkeypatch.setattr(models, "load_model", recording_load)
    return calls
