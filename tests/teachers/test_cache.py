"""A run with the teacher's logits from disk is the run with the teacher; nothing that belongs to another is read."""

import copy
import json
import pickle
import shutil
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import BertForMaskedLM, BertForQuestionAnswering

from lightning_kd import (
    CLINC150DataModule,
    DistillationModule,
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    models,
)
from lightning_kd.callbacks import FillTeacherCache, LastCheckpoint
from lightning_kd.data.interface import as_datamodule_interface
from lightning_kd.losses import HardLabelLoss, HiddenStateCosineLoss, SoftTargetLoss
from lightning_kd.teachers.cache import TeacherCache
from lightning_kd.teachers.cached_teacher import TEACHER_LOGITS
from lightning_kd.teachers.store import RowStore
from lightning_kd.teachers.teacher import Teacher
from tests.helpers import (
    LABELS,
    TINY_BERT,
    KillAtBatch,
    KilledError,
    clinc_rows,
    data,
    fill_disk,
    mlm_data,
    module,
    save_model,
    squad_data,
    tiny_bert,
    trainer,
    version_dir,
)

LARGE_INIT = {"initializer_range": 1.0}
"""Of a teacher whose logits are far from 0."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A teacher of each task."""
    folder = tmp_path_factory.mktemp("teachers")
    networks = {
        "classes": tiny_bert(layers=2, seed=1, **LARGE_INIT),
        "spans": tiny_bert(None, layers=2, seed=1, model_class=BertForQuestionAnswering, **LARGE_INIT),
        "tokens": tiny_bert(None, layers=2, seed=1, model_class=BertForMaskedLM, **LARGE_INIT),
    }
    return {name: save_model(network, folder / name) for name, network in networks.items()}


@pytest.fixture
def teacher_calls(monkeypatch):
    """The rows that a teacher saw, in batches, how often one was loaded, and in which precision it answered."""
    result = SimpleNamespace(batches=[], loaded=0, precisions=set())
    call, load = Teacher.__call__, models.load_model

    def spy(self, batch, requires=frozenset()):
        result.batches.append(batch["row_id"].tolist())
        outputs = call(self, batch, requires)
        result.precisions |= {head.logits.dtype for head in outputs.heads.values()}
        return outputs

    def counting_load(source, auto_class, what, labels=None, **options):
        result.loaded += what == "teacher"
        return load(source, auto_class, what, labels, **options)

    monkeypatch.setattr(Teacher, "__call__", spy)
    monkeypatch.setattr(models, "load_model", counting_load)
    return result


def count_rows(teacher_calls):
    return Counter(row for batch in teacher_calls.batches for row in batch if row >= 0)


class Spy(Callback):
    """Collects the loss of each step, and which steps found the logits before the batch was on the device."""

    def __init__(self):
        self.losses, self.found = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.found.append(TEACHER_LOGITS in batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def fit(folder, fitted, rows, *callbacks, ckpt_path=None, **settings):
    """Returns the losses, the weights and the teacher's scores."""
    spy = Spy()
    run = trainer(folder, callbacks=[spy, *callbacks], **{"max_epochs": 2, **settings})
    run.fit(fitted, rows, ckpt_path=ckpt_path)
    weights = {name: tensor.clone() for name, tensor in fitted.student.state_dict().items()}
    return SimpleNamespace(spy=spy, losses=spy.losses, weights=weights, scores=fitted.teacher_scores, module=fitted)


def equal_results(first, second):
    return (
        first.losses == second.losses
        and first.scores == second.scores
        and all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())
    )


@pytest.fixture
def settings_by_kind(teachers, tmp_path, clinc_file, squad_folder, corpus):
    """A module and data for each task."""
    token_student = {"config": teachers["tokens"], "num_hidden_layers": 1}
    return {
        "classes": (partial(module, teachers["classes"]), partial(data, clinc_file)),
        "spans": (partial(module, teachers["spans"], task=QuestionAnswering()), partial(squad_data, squad_folder)),
        "tokens": (
            partial(module, teachers["tokens"], task=MaskedLM(), student=token_student),
            partial(mlm_data, corpus, dynamic_masking=False),
        ),
    }


NUM_ROWS = {"classes": (72, 36), "spans": (35, 21), "tokens": (48, 20)}


@pytest.mark.parametrize("kind", NUM_ROWS)
def test_same_losses_as_without(tmp_path, settings_by_kind, kind, teacher_calls):
    make, rows = settings_by_kind[kind]
    without = fit(tmp_path, make(), rows())
    assert max(without.losses) > 0.5  # there is something to agree on
    train, validation = NUM_ROWS[kind]
    for dtype, tolerance in (("float32", 1e-5), ("float16", 1e-3)):
        cache = TeacherCache(str(tmp_path / "cache"), dtype)
        teacher_calls.batches, teacher_calls.loaded = [], 0
        cold = fit(tmp_path, make(teacher_cache=cache), rows())
        # the weights differ, too, after some steps with rounded logits
        assert cold.losses[0] == pytest.approx(without.losses[0], abs=tolerance, rel=0)
        assert cold.losses == pytest.approx(without.losses, abs=tolerance, rel=0 if dtype == "float32" else tolerance)
        assert cold.scores == pytest.approx(without.scores, rel=1e-3)
        assert teacher_calls.loaded == 1
        assert set(count_rows(teacher_calls).values()) <= {1, 2}  # once in each split
        assert count_rows(teacher_calls).total() == train + validation
        steps = len(cold.losses) // 2
        assert cold.spy.found == [False] * steps + [True] * steps
        teacher_calls.batches, teacher_calls.loaded = [], 0
        warm = fit(tmp_path, make(teacher_cache=cache), rows())
        assert equal_results(cold, warm)
        assert (teacher_calls.batches, teacher_calls.loaded) == ([], 0)
        assert all(warm.spy.found)
        assert not warm.module.teacher.models[0].is_loaded
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_ensemble_with_labels_in_other_orders(tmp_path, teachers, clinc_file):
    other = save_model(tiny_bert(LABELS[::-1], layers=1, seed=5, **LARGE_INIT), tmp_path / "other")
    make = partial(module, [other, teachers["classes"]])
    without = fit(tmp_path, make(), data(clinc_file), max_epochs=1)
    cold, warm = (fit(tmp_path, make(teacher_cache=str(tmp_path / "c")), data(clinc_file), max_epochs=1) for _ in "cw")
    assert cold.losses == pytest.approx(without.losses, abs=1e-5)
    assert equal_results(cold, warm)


def test_bfloat16_teacher_and_filling_beforehand(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["classes"]
    settings = {"precision": "bf16-mixed"}
    without = fit(tmp_path, make(), rows(), **settings)
    cached = partial(make, teacher_cache=str(tmp_path / "cache"))
    teacher_calls.batches = []
    filled = fit(tmp_path, cached(), rows(num_workers=1), FillTeacherCache(40), max_steps=1, **settings)
    # the validation split was scored; the training rows came longest first
    assert [len(batch) for batch in teacher_calls.batches] == [16, 16, 4, 40, 32]
    assert filled.losses == pytest.approx(without.losses[:1], abs=0.02)
    again = fit(tmp_path, cached(), rows(), FillTeacherCache(), **settings)
    assert len(teacher_calls.batches) == 5
    assert all(again.spy.found)
    assert again.losses == pytest.approx(without.losses, abs=0.05)
    assert teacher_calls.precisions == {torch.bfloat16}
    fit(tmp_path, cached(), rows(), max_steps=1)  # in float32
    assert len(teacher_calls.batches) > 5


def test_filled_longest_rows_first_without_padding_waste(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["spans"]
    fit(tmp_path, make(teacher_cache=str(tmp_path / "cache")), rows(), FillTeacherCache(), max_steps=1)
    lengths = {split: row_lengths_of(rows(), split) for split in ("train", "validation")}
    filled = [lengths["train"][row] for batch in teacher_calls.batches[-3:] for row in batch]
    assert filled == sorted(lengths["train"], reverse=True)
    folders = {folder_split(folder): folder for folder in (tmp_path / "cache").iterdir()}
    for split, tokens in lengths.items():
        # two heads of a logit for each token
        assert (folders[split] / "values.bin").stat().st_size == pytest.approx(8 * sum(tokens), rel=0.3)
        assert sum(block_sizes(folders[split])) == 8 * sum(tokens)


def row_lengths_of(datamodule, split):
    datamodule.setup("fit")
    return datamodule.row_lengths(split)


def read_metadata(folder):
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def folder_split(folder):
    return read_metadata(folder)["split"]


def block_sizes(folder):
    store = RowStore(folder, np.ones(read_metadata(folder)["num_rows"]))
    return store._entries["size"].tolist()


@pytest.mark.filterwarnings("ignore:the teacher is not scored")
def test_teacher_sees_only_missing_rows_of_mixed_batches(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["tokens"]
    cached = partial(make, teacher_cache=str(tmp_path / "cache"), losses={"soft": SoftTargetLoss()})
    fit(tmp_path, cached(), rows(), limit_train_batches=3, limit_val_batches=0, max_epochs=1)
    first = count_rows(teacher_calls)
    assert first.total() == len(first) == 12
    teacher_calls.batches = []
    whole = fit(tmp_path, cached(), rows(batch_size=5), limit_val_batches=0, max_epochs=1)
    second = count_rows(teacher_calls)
    assert second.total() == len(second) == 36
    assert not first.keys() & second.keys()
    assert {5} < {len(batch) for batch in teacher_calls.batches}  # whole and mixed ones
    without = fit(
        tmp_path, make(losses={"soft": SoftTargetLoss()}), rows(batch_size=5), limit_val_batches=0, max_epochs=1
    )
    assert whole.losses == pytest.approx(without.losses, abs=1e-5)


def test_top_k_of_a_vocabulary(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["tokens"]
    losses = {"soft": SoftTargetLoss()}
    without = fit(tmp_path, make(losses=losses), rows())
    for top_k, near in ((1200, 1e-5), (600, 0.05)):
        cached = partial(make, losses=losses, teacher_cache=TeacherCache(str(tmp_path / str(top_k)), top_k=top_k))
        cold = fit(tmp_path, cached(), rows())
        assert cold.losses == pytest.approx(without.losses, abs=near)
        teacher_calls.batches = []
        assert equal_results(fit(tmp_path, cached(), rows()), cold)
        assert not teacher_calls.batches


# ---- what belongs to whom


def open_folders(folder, teacher, datamodule, task=None, labels=LABELS, precision="32-true", **cache):
    """The folder of each split."""
    datamodule.setup("fit")
    source_teacher = Teacher(teacher, task or SequenceClassification())
    stores = TeacherCache(str(folder), **cache).open(
        source_teacher, source_teacher.task, datamodule, ("train", "validation"), labels, precision
    )
    return {split: cached.store.folder for split, cached in stores.items()}


def test_cache_key_ignores_location_and_batch_size(tmp_path, teachers, clinc_file):
    first = open_folders(tmp_path / "cache", teachers["classes"], data(clinc_file))
    assert len(set(first.values())) == 2
    elsewhere = shutil.copytree(teachers["classes"], tmp_path / "moved")
    rows = shutil.copy(clinc_file, tmp_path / "moved.json")
    again = data(rows, batch_size=3, eval_batch_size=5, num_workers=1)
    assert open_folders(tmp_path / "cache", str(elsewhere), again, SequenceClassification("none")) == first
    assert len(list((tmp_path / "cache").iterdir())) == 2


def write_rows(folder, change=lambda rows: None):
    rows = clinc_rows()
    change(rows)
    file = folder / "changed.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def change_text(rows):
    rows["train"][0] = ["hello desk", "greet"]


def swap_rows(rows):
    rows["train"][0], rows["train"][1] = rows["train"][1], rows["train"][0]


def test_cache_key_depends_on_teacher_data_and_precision(tmp_path, teachers, clinc_file):
    other = save_model(tiny_bert(layers=2, seed=9, **LARGE_INIT), tmp_path / "other")
    one = teachers["classes"]
    make = partial(open_folders, tmp_path / "cache")
    folders = [
        make(one, data(clinc_file)),
        make(other, data(clinc_file)),
        make([one, other], data(clinc_file)),
        make([other, one], data(clinc_file)),
        make(one, data(clinc_file), labels=LABELS[::-1]),
        make(one, data(clinc_file), precision="bf16-mixed"),
        make(one, data(clinc_file), dtype="float16"),
        make(one, data(clinc_file), top_k=2),
        make(one, data(clinc_file, max_length=6)),
    ]
    assert len({folder for pair in folders for folder in pair.values()}) == 2 * len(folders)
    for change in (change_text, swap_rows):
        changed = make(one, data(write_rows(tmp_path, change)))
        assert changed["train"] != folders[0]["train"]
        assert changed["validation"] == folders[0]["validation"]


def test_splits_of_the_same_rows_are_kept_apart(tmp_path, teachers):
    def train_as_validation(rows):
        rows["val"], rows["oos_val"] = rows["train"], rows["oos_train"]

    folders = open_folders(tmp_path / "cache", teachers["classes"], data(write_rows(tmp_path, train_as_validation)))
    assert folders["train"] != folders["validation"]


def test_cache_key_depends_on_masked_tokens(tmp_path, teachers, corpus):
    def make(seed=1, **settings):
        torch.manual_seed(seed)
        rows = mlm_data(corpus, dynamic_masking=False, **settings)
        return open_folders(tmp_path / "cache", teachers["tokens"], rows, MaskedLM(), [])

    folders = [make(), make(2), make(mlm_smoothing=0.7), make(mlm_probability=0.2), make(line_by_line=False)]
    assert len({pair["train"] for pair in folders}) == 5
    assert len({pair["validation"] for pair in folders}) == 3  # always hidden alike
    assert make() == folders[0]


def test_another_precision_of_student_or_products(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["classes"]
    cached = partial(make, teacher_cache=str(tmp_path / "cache"))
    fit(tmp_path, cached(), rows(), max_epochs=1)
    half = tiny_bert(layers=1).to(torch.bfloat16)
    fit(tmp_path, cached(student=half), rows(), max_epochs=1)  # the teacher takes the student's
    assert len(list((tmp_path / "cache").iterdir())) == 4
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        fit(tmp_path, cached(), rows(), max_epochs=1)
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(list((tmp_path / "cache").iterdir())) == 6


class UndeclaredStochasticDataModule(CLINC150DataModule):
    """Draws a token of each row anew, and does not say so."""

    def collate(self, list_columns, train):
        return partial(self.redraw, super().collate(list_columns, train))

    @staticmethod
    def redraw(collate, columns):
        batch = collate(columns)
        batch["input_ids"][:, 1] = torch.randint(10, 1000, (len(batch["input_ids"]),))
        return batch


def test_undeclared_changes_of_rows_are_refused(tmp_path, teachers, clinc_file):
    rows = UndeclaredStochasticDataModule(str(clinc_file), str(TINY_BERT), batch_size=8, max_length=32)
    with pytest.raises(ValueError, match=r"train example \d+ differs from the one cached"):
        fit(tmp_path, module(teachers["classes"], teacher_cache=str(tmp_path / "cache")), rows)


def test_teacher_that_is_replaced_during_the_run(tmp_path, teachers, clinc_file):
    folder = shutil.copytree(teachers["classes"], tmp_path / "teacher")
    cached = partial(module, str(folder), teacher_cache=str(tmp_path / "cache"))
    fit(tmp_path, cached(), data(clinc_file), limit_train_batches=2)

    class Replace(Callback):
        def on_train_start(self, trainer, pl_module):
            save_model(tiny_bert(layers=2, seed=9, **LARGE_INIT), folder)

    with pytest.raises(ValueError, match=r"teacher: .* was changed during the run; start again"):
        fit(tmp_path, cached(), data(clinc_file), Replace())


def test_second_fit_with_another_teacher_in_the_folder(tmp_path, teachers, clinc_file):
    folder = shutil.copytree(teachers["classes"], tmp_path / "teacher")
    fitted = module(str(folder), teacher_cache=str(tmp_path / "cache"))
    fit(tmp_path, fitted, data(clinc_file), limit_train_batches=1)
    other = tiny_bert(layers=2, seed=9, **LARGE_INIT)
    save_model(other, folder)
    fit(tmp_path, fitted, data(clinc_file), max_epochs=1)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    (batch,) = fitted.trainer.datamodule.subset_dataloader("train", [1, 2, 50], 3)
    expected = model_logits(other, batch)
    assert fitted.cached_teachers["train"](batch).heads["label"].logits == pytest.approx(expected, abs=1e-5)


def model_logits(network, batch):
    with torch.no_grad():
        return network.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits


# ---- runs that end early, copies, second runs


@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_killed_and_resumed_with_a_cold_cache(tmp_path, settings_by_kind, kind):
    make, rows = settings_by_kind[kind]
    whole = fit(tmp_path, make(teacher_cache=str(tmp_path / "whole")), rows())
    half = len(whole.losses) // 2
    for kills in ([2, half + 1], [half - 1, half]):
        cache, folder, resume = tmp_path / f"cache {kills}", tmp_path / f"killed {kills}", None
        for kill in (*kills, None):
            fitted = make(teacher_cache=str(cache))
            if resume is not None:
                torch.manual_seed(999)  # the checkpoint brings the seed by which tokens are hidden
            callbacks = [LastCheckpoint(0.0), *([KillAtBatch(kill)] if kill is not None else [])]
            try:
                end = fit(folder, fitted, rows(), *callbacks, ckpt_path=resume, enable_checkpointing=True)
            except KilledError:
                resume = folder / "checkpoints" / "last.ckpt"
        assert all(torch.equal(tensor, end.weights[name]) for name, tensor in whole.weights.items())
        assert len(list(cache.iterdir())) == 2
        assert {path.name for path in cache.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def test_second_fit_with_other_data(tmp_path, settings_by_kind, teacher_calls, clinc_file):
    make, rows = settings_by_kind["classes"]
    others = data(write_rows(tmp_path, lambda rows: rows["train"].reverse()))
    results = []
    for settings in ({}, {"teacher_cache": str(tmp_path / "cache")}):
        fitted = make(**settings)
        fit(tmp_path, fitted, rows(), max_epochs=1)
        results.append(fit(tmp_path, fitted, copy.copy(others), max_epochs=1).losses)
    assert results[1] == pytest.approx(results[0], abs=1e-4)
    assert len(list((tmp_path / "cache").iterdir())) == 3  # the validation rows are the same


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_copies_and_pickles_of_a_fitted_module(tmp_path, settings_by_kind):
    make, rows = settings_by_kind["classes"]
    averaging = WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    fitted = fit(tmp_path, make(teacher_cache=str(tmp_path / "cache")), rows(), averaging).module
    cached = fitted.cached_teachers["train"]
    assert copy.deepcopy(fitted).cached_teachers["train"] is cached
    fitted.trainer = None
    other = pickle.loads(pickle.dumps(fitted)).cached_teachers["train"]
    batch = next(iter(data_batches(rows())))
    assert torch.equal(other(batch).heads["label"].logits, cached(batch).heads["label"].logits)


def data_batches(datamodule, split="train", batch_size=8):
    datamodule.setup("fit")
    return datamodule.subset_dataloader(split, range(len(datamodule.row_lengths(split))), batch_size)


def test_load_from_checkpoint(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["classes"]
    cache = TeacherCache(tmp_path / "cache", "float16")
    fit(tmp_path, make(teacher_cache=cache), rows(), LastCheckpoint(0.0), enable_checkpointing=True)
    teacher_calls.batches = []
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert loaded.teacher_cache == cache
    fit(tmp_path, loaded, rows(), max_epochs=1)
    moved = DistillationModule.load_from_checkpoint(
        tmp_path / "checkpoints" / "last.ckpt", teacher_cache=str(tmp_path / "new")
    )
    assert not teacher_calls.batches
    fit(tmp_path, moved, rows(), max_epochs=1)
    assert teacher_calls.batches


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_a_few_batches(tmp_path, settings_by_kind, teacher_calls):
    make, rows = settings_by_kind["tokens"]
    run = partial(fit, tmp_path, overfit_batches=2, max_epochs=3)
    without = run(make(), rows())
    teacher_calls.batches = []
    cached = run(make(teacher_cache=str(tmp_path / "cache")), rows())
    assert cached.losses == pytest.approx(without.losses, abs=1e-5)
    assert len(teacher_calls.batches) == 4


# ---- single batches


class FunctionModel(nn.Module):
    """Answers a function of the ids."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, input_ids):
        return self.answer(input_ids[:, 1:4].float() / 100)


def cached_teacher(tmp_path, clinc_file, answer=lambda ids: ids, **cache):
    rows = data(clinc_file)
    rows.setup("fit")
    source_teacher = Teacher(FunctionModel(answer), SequenceClassification())
    return rows, TeacherCache(str(tmp_path / "cache"), **cache).open(
        source_teacher, source_teacher.task, rows, ("train", "validation"), LABELS, "32"
    )


def batch_of(rows, row_ids, split="train"):
    """Evaluation pads with rows that do not count: ``row_id`` -1."""
    (batch,) = rows.subset_dataloader(split, row_ids, 100)
    return batch


def test_rows_that_come_twice_and_rows_that_pad(tmp_path, clinc_file, teacher_calls):
    rows, cached = cached_teacher(tmp_path, clinc_file)
    batch = batch_of(rows, [3, ~5, 4, 3, 5])
    expected = batch["input_ids"][[0, 2, 3, 4], 1:4] / 100
    for _ in range(2):
        head = cached["train"](batch).heads["label"]
        assert torch.equal(head.logits, expected)
        assert torch.equal(head.labels, batch["labels"][[0, 2, 3, 4]])
    assert len(teacher_calls.batches) == 1
    padding = cached["train"](batch_of(rows, [~5, ~5])).heads["label"]
    assert padding.logits.shape == (0, 3)
    assert padding.labels.shape == (0,)
    assert len(teacher_calls.batches) == 1


def test_rows_filled_by_another_process(tmp_path, clinc_file, teacher_calls):
    (rows, one), (_, other) = (cached_teacher(tmp_path, clinc_file) for _ in range(2))
    batch = batch_of(rows, [0, 3, 60])
    expected = one["train"](batch).heads["label"].logits
    assert torch.equal(other["train"](batch).heads["label"].logits, expected)
    assert len(teacher_calls.batches) == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_count(tmp_path, teachers, clinc_file, tokenizer, teacher_calls, side):
    tokenizer.padding_side = side
    rows = data(clinc_file, tokenizer=tokenizer)
    rows.setup("fit")
    source_teacher = Teacher(teachers["classes"], SequenceClassification())
    cached = TeacherCache(str(tmp_path / "cache")).open(
        source_teacher, source_teacher.task, rows, ("train",), LABELS, "32"
    )["train"]
    together = cached(batch_of(rows, range(72))).heads["label"].logits
    assert len({len(batch_of(rows, [row])["input_ids"][0]) for row in range(72)}) > 1
    alone = [cached(batch_of(rows, [row])).heads["label"].logits for row in range(72)]
    assert torch.equal(torch.cat(alone), together)
    assert len(teacher_calls.batches) == 1


@pytest.mark.parametrize(
    ("answer", "cache", "message"),
    [
        (lambda ids: ids * torch.nan, {}, r"teacher: NaN or infinite logits for train example \d+"),
        (lambda ids: -ids / 0, {"top_k": 2}, r"teacher: NaN or infinite logits for train example \d+"),
        (
            lambda ids: 1e6 * ids,
            {"dtype": "float16"},
            r"teacher_cache.dtype: .* train example \d+ overflows float16",
        ),
    ],
)
def test_logits_that_cannot_be_kept(tmp_path, clinc_file, answer, cache, message):
    rows, cached = cached_teacher(tmp_path, clinc_file, answer, **cache)
    with pytest.raises(FloatingPointError, match=message):
        cached["train"](batch_of(rows, [0, 1]))
    assert len(cached["train"].store) == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_infinity_is_kept(tmp_path, clinc_file, dtype):
    """Of classes that do not count."""
    rows, cached = cached_teacher(tmp_path, clinc_file, lambda ids: ids - torch.tensor([0, torch.inf, 0]), dtype=dtype)
    logits = cached["train"](batch_of(rows, [0, 1])).heads["label"].logits
    assert logits.isneginf().tolist() == [[False, True, False]] * 2
    assert logits.isfinite().tolist() == [[True, False, True]] * 2


# ---- refused


def test_refused_at_once(tmp_path, teachers):
    losses = {"cosine": HiddenStateCosineLoss()}
    with pytest.raises(ValueError, match=r"losses\.cosine: compares hidden_states, .*teacher_cache"):
        module(teachers["classes"], losses=losses, teacher_cache=str(tmp_path))
    with pytest.raises(ValueError, match=r"teacher_cache\.dtype: must be float32 or float16, got 'int8'"):
        TeacherCache("x", "int8")
    with pytest.raises(ValueError, match=r"teacher_cache\.top_k: must be >= 1 or null, got 0"):
        TeacherCache("x", top_k=0)
    with pytest.raises(ValueError, match=r"FillTeacherCache\.batch_size: must be >= 1 or null, got 0"):
        FillTeacherCache(0)


class CustomDataModule(LightningDataModule):
    pass


class StochasticDataModule(CLINC150DataModule):
    is_stochastic = True


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (partial(mlm_data, dynamic_masking=True), "data.dynamic_masking: hides other tokens in each epoch"),
        (partial(mlm_data, streaming=True), "data.streaming: hides other tokens in each epoch"),
    ],
)
def test_masks_that_change_are_refused(tmp_path, teachers, corpus, settings_by_kind, rows, message):
    fitted = settings_by_kind["tokens"][0](teacher_cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, fitted, rows(corpus), max_steps=2)
    assert not (tmp_path / "cache").exists()


def test_other_data_are_refused(tmp_path, teachers, clinc_file, squad_folder):
    make = partial(TeacherCache(str(tmp_path / "cache")).open, splits=("train",), label_names=LABELS, precision="32")
    teacher = Teacher(teachers["classes"], SequenceClassification())
    with pytest.raises(ValueError, match="teacher_cache: CustomDataModule has no cache_key"):
        make(teacher, teacher.task, as_datamodule_interface(CustomDataModule()))
    with pytest.raises(ValueError, match="teacher_cache: a DataLoader has no cache_key"):
        make(teacher, teacher.task, as_datamodule_interface(None))
    stochastic = StochasticDataModule(str(clinc_file), str(TINY_BERT))
    stochastic.setup("fit")
    with pytest.raises(ValueError, match="teacher_cache: StochasticDataModule draws rows anew in each epoch"):
        make(teacher, teacher.task, stochastic)
    with pytest.raises(ValueError, match=r"teacher_cache\.top_k: not for QuestionAnswering"):
        open_folders(tmp_path, teachers["spans"], squad_data(squad_folder), QuestionAnswering(), [], top_k=5)


def test_nothing_to_fill(tmp_path, teachers, clinc_file):
    with pytest.raises(ValueError, match=r"model\.teacher_cache: not set"):
        fit(tmp_path, module(teachers["classes"]), data(clinc_file), FillTeacherCache())
    alone = module(losses={"hard": HardLabelLoss()}, teacher_cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"model\.teacher: not used by any loss"):
        fit(tmp_path, alone, data(clinc_file), FillTeacherCache())
    fit(tmp_path, alone, data(clinc_file), max_epochs=1)
    assert not (tmp_path / "cache").exists()


# ---- from the shell


@pytest.fixture
def distill_args(tmp_path, config, teachers):
    """Arguments of a run with a cache in the folder ``cache``, or another."""

    def arguments(cache=tmp_path / "cache"):
        soft = "{class_path: SoftTargetLoss, init_args: {weight: 0.5}}"
        teacher = [f"--model.teacher={teachers['classes']}", f"--model.losses.soft={soft}"]
        return ["--config", config, *teacher, "--model.ignore_checks+=weak_teacher", f"--model.teacher_cache={cache}"]

    return arguments


def modified_times(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def fail_on_step(module, batch, batch_idx):
    raise AssertionError("a step of training")


def test_cache_command(tmp_path, distill_args, shell, teacher_calls, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(DistillationModule, "training_step", fail_on_step)  # it ends before the first one
        assert shell("cache", *distill_args(), "--cache.batch_size=30") == (0, "")
    assert [len(batch) for batch in teacher_calls.batches] == [16, 16, 4, 30, 30, 12]
    assert len(modified_times(tmp_path / "cache")) == 8
    assert not (tmp_path / "lightning_logs").exists()
    before = modified_times(tmp_path / "cache")
    caplog.clear()
    assert shell("cache", *distill_args()) == (0, "")
    assert ": 72 of 72 train examples cached" in caplog.text
    assert ": 36 of 36 validation examples cached" in caplog.text
    assert shell("fit", *distill_args())[0] == 0
    assert len(teacher_calls.batches) == 6
    assert modified_times(tmp_path / "cache") == before
    assert (version_dir(tmp_path) / "student" / "model.safetensors").is_file()


def test_cache_command_refuses(tmp_path, config, shell, distill_args):
    assert "model.teacher_cache: none given" in shell("cache", "--config", config)[1]
    assert "model.teacher: not used by any loss" in shell("cache", "--config", config, "--model.teacher_cache=x")[1]
    guessing = [argument for argument in distill_args() if "weak_teacher" not in str(argument)]
    assert "not better than chance" in shell("cache", *guessing)[1]
    folders = {read_metadata(folder)["split"]: folder for folder in (tmp_path / "cache").iterdir()}
    assert not (folders["train"] / "values.bin").exists()  # asked before it sees all rows


def test_cache_command_continues_nothing(tmp_path, distill_args, shell):
    code, message = shell("cache", *distill_args(), "--ckpt_path=last.ckpt")
    assert code
    assert "ckpt_path: cache trains nothing" in message


@pytest.mark.parametrize("kind", NUM_ROWS)
def test_batch_of_padding_only(tmp_path, settings_by_kind, kind):
    """With several devices one may get such a batch."""
    make, rows = settings_by_kind[kind]
    fitted = fit(tmp_path, make(teacher_cache=str(tmp_path / "cache")), rows()).module
    batch = next(iter(fitted.trainer.val_dataloaders))
    outputs = fitted.cached_teachers["validation"](batch)
    empty = fitted.cached_teachers["validation"]({**batch, "row_id": torch.full_like(batch["row_id"], -1)})
    for name, head in empty.heads.items():
        assert head.logits.shape == (0, outputs.heads[name].logits.shape[1])


# Lightning cannot know that the DataModule's hook calls the module's
@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer` in both")
def test_hooks_of_the_module_see_each_batch(tmp_path, teachers, clinc_file):
    """Rows are filled, scored and trained on as the hook makes them."""

    class CustomModule(DistillationModule):
        num_batches = 0

        def on_before_batch_transfer(self, batch, dataloader_idx):
            self.num_batches += 1
            ids = batch["input_ids"].clone()
            ids[:, 1] = 7
            return {**batch, "input_ids": ids}

    cache = str(tmp_path / "cache")
    template = module(teachers["classes"])
    settings = {"losses": dict(template.losses), "optimizer": template.optimizer, "ignore_checks": ["weak_teacher"]}
    custom = CustomModule(
        SequenceClassification(), template._student_source, teachers["classes"], teacher_cache=cache, **settings
    )
    trainer(tmp_path, callbacks=[FillTeacherCache()]).fit(custom, data(clinc_file))
    assert (
        custom.num_batches == 9 + 3 + 3 + 3 + 2
    )  # steps; filled in batches of 32; scored, validated and looked at in 16


def test_masked_tokens_of_command_and_run_are_the_same(tmp_path, shell, teachers, corpus, teacher_calls):
    arguments = [
        "--model.task=MaskedLM", f"--model.teacher={teachers['tokens']}", f"--model.student={teachers['tokens']}",
        "--model.losses.soft=SoftTargetLoss", "--model.ignore_checks+=weak_teacher",
        f"--model.teacher_cache={tmp_path / 'c'}",
        "--data=MaskedLMDataModule", f"--data.path={corpus}", "--data.dynamic_masking=false", "--data.max_length=16",
        f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert shell("cache", *arguments) == (0, "")
    teacher_calls.batches = []
    assert shell("fit", *arguments, "--trainer.max_steps=2")[0] == 0
    assert teacher_calls.batches == []


def test_damaged_cache(tmp_path, distill_args, shell, teacher_calls):
    assert shell("cache", *distill_args())[0] == 0
    folders = {read_metadata(folder)["split"]: folder for folder in (tmp_path / "cache").iterdir()}
    values = folders["train"] / "values.bin"
    content = bytearray(values.read_bytes())
    content[30] ^= 1
    values.write_bytes(content)
    teacher_calls.batches = []
    assert shell("cache", *distill_args())[0] == 0
    assert [len(batch) for batch in teacher_calls.batches] == [1]
    values.write_bytes(content[:-20])
    code, last = shell("fit", *distill_args())
    assert code
    assert f"teacher_cache: '{folders['train']}' is damaged (values.bin has" in last
    assert "\n" not in last
    shutil.rmtree(folders["train"])
    assert shell("fit", *distill_args())[0] == 0


def test_full_disk(small_disk, tmp_path, distill_args, shell):
    earlier = small_disk / "earlier"
    assert shell("cache", *distill_args(earlier))[0] == 0
    before = {path: path.read_bytes() for path in modified_times(earlier)}
    fill_disk(small_disk)
    for command in ("fit", "cache"):
        code, last = shell(command, *distill_args(small_disk / "new"))
        assert code
        assert f"teacher_cache: cannot write to '{small_disk / 'new'}" in last
        assert "the disk is full: free some space" in last
        assert "\n" not in last
    assert not version_dir(tmp_path).exists()
    assert {path: path.read_bytes() for path in modified_times(earlier)} == before
    assert shell("fit", *distill_args(earlier))[0] == 0


def test_read_only_folder(small_disk, distill_args, shell, teacher_calls):
    assert shell("cache", *distill_args(small_disk / "filled"))[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    teacher_calls.batches = []
    assert shell("fit", *distill_args(small_disk / "filled"))[0] == 0
    assert teacher_calls.batches == []
    code, last = shell("fit", *distill_args(small_disk / "new"))
    assert code
    assert f"teacher_cache: cannot write to '{small_disk / 'new'}" in last
    assert "Read-only file system)" in last
    assert "\n" not in last
