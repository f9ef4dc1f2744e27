"""Single batches of a cached teacher: missing, repeated, padded and changed examples."""

import pytest
import torch
from torch import nn

from lightning_kd import MaskedLM, QuestionAnswering, SequenceClassification, TeacherCache
from lightning_kd.teachers import Teacher
from tests.helpers import LABELS, data, mlm_data, squad_data


class FunctionModel(nn.Module):
    """Applies a function to the first token ids."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, input_ids):
        return self.function(input_ids[:, 1:4].float() / 100)


def open_cache(tmp_path, datamodule, model, task=None, labels=LABELS, **settings):
    task = task or SequenceClassification()
    datamodule.setup("fit")
    cache = TeacherCache(str(tmp_path / "cache"), **settings)
    return cache.open(Teacher(model, task), task, datamodule, ("train",), labels, "32")["train"]


@pytest.fixture
def make_cached(tmp_path, clinc_file):
    """Function that opens the cache of a teacher that applies a function."""
    return lambda function=lambda ids: ids, **settings: open_cache(
        tmp_path, data(clinc_file), FunctionModel(function), **settings
    )


@pytest.fixture
def make_batch(clinc_file):
    """Function that makes a batch of training examples; ``~row_id`` is padding."""
    datamodule = data(clinc_file)
    datamodule.setup("fit")
    return lambda *row_ids: next(iter(datamodule.subset_dataloader("train", row_ids, 100)))


def test_repeated_and_padding_rows(make_cached, make_batch, teacher_calls):
    cached, batch = make_cached(), make_batch(3, ~5, 4, 3, 5)
    for _ in range(2):
        head = cached(batch).heads["label"]
        assert torch.equal(head.logits, batch["input_ids"][[0, 2, 3, 4], 1:4] / 100)
        assert torch.equal(head.labels, batch["labels"][[0, 2, 3, 4]])
    padding = cached(make_batch(~5, ~5)).heads["label"]
    assert padding.logits.shape == (0, 3)
    assert padding.labels.shape == (0,)
    assert len(teacher_calls.batches) == 1


def test_rows_written_by_another_process(make_cached, make_batch, teacher_calls):
    first, second = make_cached(), make_cached()
    logits = [cached(make_batch(0, 3, 60)).heads["label"].logits for cached in (first, second)]
    assert torch.equal(*logits)
    assert len(teacher_calls.batches) == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_do_not_depend_on_padding(tmp_path, teachers, clinc_file, tokenizer, teacher_calls, side):
    tokenizer.padding_side = side
    datamodule = data(clinc_file, tokenizer=tokenizer)
    cached = open_cache(tmp_path, datamodule, teachers["classes"])
    (batch,) = datamodule.subset_dataloader("train", range(72), 72)
    single = list(datamodule.subset_dataloader("train", range(72), 1))
    assert len({one["input_ids"].shape for one in single}) > 1
    together = cached(batch).heads["label"].logits
    assert torch.equal(torch.cat([cached(one).heads["label"].logits for one in single]), together)
    assert len(teacher_calls.batches) == 1


def test_batch_of_padding_only(tmp_path, teachers, squad_folder, corpus):
    """One of several devices may get such a batch."""
    spans, tokens = squad_data(squad_folder), mlm_data(corpus, dynamic_masking=False)
    for datamodule, name, task in ((spans, "spans", QuestionAnswering()), (tokens, "tokens", MaskedLM())):
        cached = open_cache(tmp_path, datamodule, teachers[name], task, [])
        (batch,) = datamodule.subset_dataloader("train", [~0, ~1], 2)
        width = batch["input_ids"].shape[1] if name == "spans" else 1200
        assert {head.logits.shape for head in cached(batch).heads.values()} == {(0, width)}


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
def test_changed_inputs(make_cached, make_batch, name):
    cached, batch = make_cached(), make_batch(0, 1)
    cached(batch)
    changed = {**batch, name: batch[name].clone()}
    changed[name][1, 1] += 1
    with pytest.raises(ValueError, match="teacher_cache: train example 1 differs from the one cached"):
        cached(changed)


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (lambda ids: ids * torch.nan, {}, r"teacher: NaN or infinite logits for train example 0"),
        (lambda ids: -ids / 0, {"top_k": 2}, r"teacher: NaN or infinite logits for train example 0"),
        (lambda ids: 1e6 * ids, {"dtype": "float16"}, r"teacher_cache\.dtype: .* train example 0 overflows float16"),
    ],
)
def test_logits_that_cannot_be_stored(make_cached, make_batch, function, settings, message):
    cached = make_cached(function, **settings)
    with pytest.raises(FloatingPointError, match=message):
        cached(make_batch(0, 1))
    assert len(cached.store) == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_infinite_logits_of_masked_classes(make_cached, make_batch, dtype):
    cached = make_cached(lambda ids: ids - torch.tensor([0, torch.inf, 0]), dtype=dtype)
    logits = cached(make_batch(0, 1)).heads["label"].logits
    assert logits.isneginf().tolist() == [[False, True, False]] * 2
    assert logits.isfinite().tolist() == [[True, False, True]] * 2
