"""Runs with cached logits equal runs with the teacher, and logits of different teachers or data are kept apart."""

import copy
import json
import os
import pickle
import shutil
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_kd import DistillationModule, MaskedLM, QuestionAnswering, SequenceClassification, TeacherCache
from lightning_kd.callbacks import FillTeacherCache, LastCheckpoint
from lightning_kd.losses import HardLabelLoss, HiddenStateCosineLoss, SoftTargetLoss
from lightning_kd.outputs import TEACHER_LOGITS
from lightning_kd.teachers import Teacher
from tests.helpers import (
    LABELS,
    assert_same_weights,
    clinc_rows,
    data,
    fit_and_resume,
    mlm_data,
    module,
    save_model,
    squad_data,
    tiny_bert,
    trainer,
)

LARGE_INIT = {"initializer_range": 1.0}


class Record(Callback):
    """The loss of each step, and whether its logits were found before the batch was moved to the device."""

    def __init__(self):
        self.losses, self.found = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.found.append(TEACHER_LOGITS in batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


class Run:
    """A finished run."""

    def __init__(self, folder, fitted, datamodule, *callbacks, ckpt_path=None, **settings):
        record = Record()
        run = trainer(folder, callbacks=[record, *callbacks], **{"max_epochs": 2, **settings})
        run.fit(fitted, datamodule, ckpt_path=ckpt_path)
        self.module, self.losses, self.found = fitted, record.losses, record.found
        self.weights = {name: tensor.tolist() for name, tensor in fitted.student.state_dict().items()}
        self.results = (self.losses, self.module.teacher_scores, self.weights)


@pytest.fixture
def setups(tmp_path, teachers, clinc_file, squad_folder, corpus):
    """Functions that make the module and the data of each task, and of an ensemble with different label orders."""
    token_student = {"config": teachers["tokens"], "num_hidden_layers": 1}
    other = save_model(tiny_bert(LABELS[::-1], layers=1, seed=5, **LARGE_INIT), tmp_path / "other order")
    return {
        "classes": (partial(module, teachers["classes"]), partial(data, clinc_file)),
        "ensemble": (partial(module, [other, teachers["classes"]]), partial(data, clinc_file)),
        "spans": (partial(module, teachers["spans"], task=QuestionAnswering()), partial(squad_data, squad_folder)),
        "tokens": (
            partial(module, teachers["tokens"], task=MaskedLM(), student=token_student),
            partial(mlm_data, corpus, dynamic_masking=False),
        ),
    }


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def num_folders(cache):
    return len(list(cache.iterdir()))


# ---- runs


@pytest.mark.parametrize(("kind", "num_rows"), [("ensemble", 72 + 36), ("spans", 35 + 21), ("tokens", 48 + 20)])
def test_losses_equal_those_without_cache(tmp_path, setups, cache, kind, num_rows, teacher_calls):
    make, rows = setups[kind]
    without = Run(tmp_path, make(), rows())
    assert max(without.losses) > 0.5
    for dtype, tolerance in (("float32", 1e-5), ("float16", 1e-3)):
        make_cached = partial(make, teacher_cache=TeacherCache(cache, dtype))
        teacher_calls.reset()
        cold = Run(tmp_path, make_cached(), rows())
        # the weights differ too, after some steps with rounded logits
        assert cold.losses[0] == pytest.approx(without.losses[0], abs=tolerance, rel=0)
        assert cold.losses == pytest.approx(without.losses, abs=tolerance, rel=0 if dtype == "float32" else tolerance)
        assert cold.module.teacher_scores == pytest.approx(without.module.teacher_scores, rel=1e-3)
        assert teacher_calls.loaded == len(cold.module.teacher.models)
        assert set(teacher_calls.row_counts.values()) <= {1, 2}  # once in each split
        assert teacher_calls.row_counts.total() == num_rows
        steps = len(cold.losses) // 2
        assert cold.found == [False] * steps + [True] * steps
        teacher_calls.reset()
        warm = Run(tmp_path, make_cached(), rows())
        assert warm.results == cold.results
        assert all(warm.found)
        assert (teacher_calls.batches, teacher_calls.loaded) == ([], 0)
    assert num_folders(cache) == 4


def test_bfloat16_teacher_and_filling_beforehand(tmp_path, setups, cache, teacher_calls):
    make, rows = setups["classes"]
    without = Run(tmp_path, make(), rows(), precision="bf16-mixed")
    make = partial(make, teacher_cache=str(cache))
    teacher_calls.reset()
    filled = Run(tmp_path, make(), rows(num_workers=1), FillTeacherCache(40), max_steps=1, precision="bf16-mixed")
    assert teacher_calls.sizes == [16, 16, 4, 40, 32]  # the validation split is scored first
    assert filled.losses == pytest.approx(without.losses[:1], abs=0.02)
    again = Run(tmp_path, make(), rows(), FillTeacherCache(), precision="bf16-mixed")
    assert len(teacher_calls.batches) == 5
    assert all(again.found)
    assert again.losses == pytest.approx(without.losses, abs=0.05)
    assert teacher_calls.dtypes == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:the teacher is not scored")
def test_mixed_batches_of_cached_and_missing_examples(tmp_path, setups, cache, teacher_calls):
    make, rows = setups["tokens"]
    make, run = partial(make, losses={"soft": SoftTargetLoss()}), partial(Run, tmp_path, limit_val_batches=0)
    run(make(teacher_cache=str(cache)), rows(), limit_train_batches=3, max_epochs=1)
    first = teacher_calls.row_counts
    assert first.total() == len(first) == 12
    teacher_calls.reset()
    mixed = run(make(teacher_cache=str(cache)), rows(batch_size=5), max_epochs=1)
    second = teacher_calls.row_counts
    assert second.total() == len(second) == 36
    assert not first.keys() & second.keys()
    assert {5} < set(teacher_calls.sizes)
    assert mixed.losses == pytest.approx(run(make(), rows(batch_size=5), max_epochs=1).losses, abs=1e-5)


def test_top_k(tmp_path, setups, cache, teacher_calls):
    make, rows = setups["tokens"]
    make = partial(make, losses={"soft": SoftTargetLoss()})
    without = Run(tmp_path, make(), rows())
    make = partial(make, teacher_cache=TeacherCache(cache, top_k=600))
    cold = Run(tmp_path, make(), rows())
    assert cold.losses == pytest.approx(without.losses, abs=0.05)
    teacher_calls.reset()
    assert Run(tmp_path, make(), rows()).results == cold.results
    assert not teacher_calls.batches


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches(tmp_path, setups, cache, teacher_calls):
    make, rows = setups["tokens"]
    run = partial(Run, tmp_path, overfit_batches=2, max_epochs=3)
    without = run(make(), rows())
    teacher_calls.reset()
    assert run(make(teacher_cache=str(cache)), rows()).losses == pytest.approx(without.losses, abs=1e-5)
    assert len(teacher_calls.batches) == 4


@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_killed_and_resumed_with_a_cold_cache(tmp_path, setups, kind):
    make, rows = setups[kind]
    whole = Run(tmp_path, make(teacher_cache=str(tmp_path / "whole")), rows())
    half = len(whole.losses) // 2
    for kills in ([2, half + 1], [half - 1, half]):
        folder = tmp_path / f"killed {kills}"
        make_cached = partial(make, teacher_cache=str(folder / "cache"))
        assert_same_weights(fit_and_resume(folder, make_cached, rows, kills, max_epochs=2), whole.module)
        assert sorted(os.listdir(folder / "cache")) == sorted(os.listdir(tmp_path / "whole"))


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_pickled_module_with_weight_averaging(tmp_path, setups, cache):
    make, rows = setups["classes"]
    averaging = WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    fitted = Run(tmp_path, make(teacher_cache=str(cache)), rows(), averaging).module
    (batch,) = fitted.trainer.datamodule.subset_dataloader("train", [0, 1, 2], 3)
    cached = fitted.cached_teachers["train"]
    assert copy.deepcopy(fitted).cached_teachers["train"] is cached
    fitted.trainer = None
    unpickled = pickle.loads(pickle.dumps(fitted)).cached_teachers["train"]
    assert torch.equal(unpickled(batch).heads["label"].logits, cached(batch).heads["label"].logits)


def test_load_from_checkpoint(tmp_path, setups, teacher_calls, cache):
    make, rows = setups["classes"]
    settings = TeacherCache(cache, "float16")
    Run(tmp_path, make(teacher_cache=settings), rows(), LastCheckpoint(0.0), enable_checkpointing=True)
    teacher_calls.reset()
    load = partial(DistillationModule.load_from_checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    loaded = load()
    assert loaded.teacher_cache == settings
    Run(tmp_path, loaded, rows(), max_epochs=1)
    assert not teacher_calls.batches
    Run(tmp_path, load(teacher_cache=str(tmp_path / "new")), rows(), max_epochs=1)
    assert teacher_calls.batches


# Lightning does not know that the DataModule's hook calls the module's
@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer` in both")
def test_batch_hook_of_the_module(tmp_path, setups, cache):
    """The hook changes the batches that are cached, scored and trained on; it must always change them alike."""

    class CustomModule(DistillationModule):
        num_batches, token = 0, 7

        def on_before_batch_transfer(self, batch, dataloader_idx):
            self.num_batches += 1
            ids = batch["input_ids"].clone()
            ids[:, 1] = self.token
            return {**batch, "input_ids": ids}

    make, rows = setups["classes"]
    hparams = make(teacher_cache=str(cache)).hparams
    custom = CustomModule(**{**hparams, "losses": {"hard": HardLabelLoss(), "soft": SoftTargetLoss()}})
    Run(tmp_path, custom, rows(), FillTeacherCache(), max_epochs=1)
    # 9 steps; 3 batches to fill; 3 each to score and to validate; 2 of the sanity check
    assert custom.num_batches == 9 + 3 + 3 + 3 + 2
    custom.token = 8
    with pytest.raises(ValueError, match=r"example \d+ differs from the one cached"):
        Run(tmp_path, custom, rows())


# ---- keys


@pytest.fixture
def open_folders(cache):
    """Function that returns the folder of each split."""

    def open_folders(teacher, datamodule, task=None, labels=LABELS, precision="32-true", **settings):
        datamodule.setup("fit")
        task = task or SequenceClassification()
        opened = TeacherCache(str(cache), **settings).open(
            Teacher(teacher, task), task, datamodule, ("train", "validation"), labels, precision
        )
        return {split: cached.store.folder for split, cached in opened.items()}

    return open_folders


@pytest.fixture
def change_data(tmp_path):
    """Function that writes the data set with a change."""

    def write(change):
        rows = clinc_rows()
        change(rows)
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(rows), encoding="utf-8")
        return data(file)

    return write


def test_key_does_not_depend_on_paths_and_batch_sizes(tmp_path, teachers, clinc_file, cache, open_folders):
    first = open_folders(teachers["classes"], data(clinc_file))
    assert len(set(first.values())) == 2
    teacher = shutil.copytree(teachers["classes"], tmp_path / "moved")
    datamodule = data(shutil.copy(clinc_file, tmp_path / "moved.json"), batch_size=3, eval_batch_size=5, num_workers=1)
    assert open_folders(str(teacher), datamodule, SequenceClassification("none")) == first
    assert num_folders(cache) == 2


def test_key_depends_on_teacher_data_and_precision(tmp_path, teachers, clinc_file, open_folders, change_data):
    teacher, other = teachers["classes"], save_model(tiny_bert(seed=9, **LARGE_INIT), tmp_path / "other")
    folders = [
        open_folders(teacher, data(clinc_file)),
        open_folders(other, data(clinc_file)),
        open_folders([teacher, other], data(clinc_file)),
        open_folders([other, teacher], data(clinc_file)),
        open_folders({"ensemble": [teacher, other], "combine": "confidence"}, data(clinc_file)),
        open_folders(teacher, data(clinc_file), labels=LABELS[::-1]),
        open_folders(teacher, data(clinc_file), precision="bf16-mixed"),
        open_folders(teacher, data(clinc_file), dtype="float16"),
        open_folders(teacher, data(clinc_file), top_k=2),
        open_folders(teacher, data(clinc_file, max_length=6)),
        # the same examples in both splits
        open_folders(teacher, change_data(lambda rows: rows.update(val=rows["train"], oos_val=rows["oos_train"]))),
    ]
    assert len({folder for pair in folders for folder in pair.values()}) == 2 * len(folders) - 1
    assert folders[-1]["train"] == folders[0]["train"]
    for change in (
        lambda rows: rows["train"].__setitem__(0, ["hello desk", "greet"]),
        lambda rows: rows["train"].reverse(),
    ):
        changed = open_folders(teacher, change_data(change))
        assert changed["train"] != folders[0]["train"]
        assert changed["validation"] == folders[0]["validation"]


def test_key_depends_on_masked_tokens(teachers, corpus, open_folders):
    def make(seed=1, **settings):
        torch.manual_seed(seed)
        datamodule = mlm_data(corpus, dynamic_masking=False, **settings)
        return open_folders(teachers["tokens"], datamodule, MaskedLM(), [])

    folders = [make(), make(2), make(mlm_smoothing=0.7), make(mlm_probability=0.2), make(line_by_line=False)]
    assert len({pair["train"] for pair in folders}) == 5
    assert len({pair["validation"] for pair in folders}) == 3  # its masking has a fixed seed
    assert make() == folders[0]


@pytest.fixture
def _matmul_precision():
    """Restore the precision: ``set_float32_matmul_precision("highest")`` sets "ieee", the default is "none"."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [getattr(backend, "fp32_precision", None) for backend in backends]
    yield
    torch.set_float32_matmul_precision("highest")
    for backend, precision in zip(backends, before, strict=True):
        if precision is not None:  # since 2.9
            backend.fp32_precision = precision


@pytest.mark.usefixtures("_matmul_precision")
def test_key_depends_on_dtypes_and_matmul_precision(tmp_path, setups, cache):
    make, rows = setups["classes"]
    run = partial(Run, tmp_path, max_steps=1)
    run(make(teacher_cache=str(cache)), rows())
    run(make(teacher_cache=str(cache)), rows(), precision="bf16-mixed")
    assert num_folders(cache) == 4
    run(make(teacher_cache=str(cache), student=tiny_bert(layers=1).to(torch.bfloat16)), rows())
    assert num_folders(cache) == 6
    torch.set_float32_matmul_precision("high")
    run(make(teacher_cache=str(cache)), rows())
    assert num_folders(cache) == 8


@pytest.mark.parametrize(("damage", "differs"), [("copied", "teacher"), ("unreadable", "format, teacher, .*")])
def test_folder_with_the_logits_of_another_teacher(tmp_path, teachers, clinc_file, cache, damage, differs):
    other = save_model(tiny_bert(LABELS, seed=6), tmp_path / "other")

    def fill(teacher):
        known = set(cache.glob("*"))
        Run(tmp_path, module(teacher, teacher_cache=str(cache)), data(clinc_file), max_epochs=1)
        new = sorted(set(cache.glob("*")) - known)
        return next(folder for folder in new if '"split": "train"' in (folder / "metadata.json").read_text())

    first, second = fill(teachers["classes"]), fill(other)
    if damage == "copied":
        shutil.copytree(first, second, dirs_exist_ok=True)
    else:
        (second / "metadata.json").write_text("{")
    says = rf"'{second}' was filled with other logits \(its metadata.json differs in {differs}\); delete it"
    with pytest.raises(ValueError, match=says):
        fill(other)


def test_teacher_replaced_during_the_run(tmp_path, teachers, clinc_file, cache):
    folder = shutil.copytree(teachers["classes"], tmp_path / "teacher")
    make = partial(module, str(folder), teacher_cache=str(cache))
    Run(tmp_path, make(), data(clinc_file), limit_train_batches=2)

    class Replace(Callback):
        def on_train_start(self, trainer, pl_module):
            save_model(tiny_bert(seed=9, **LARGE_INIT), folder)

    with pytest.raises(ValueError, match=rf"teacher: '{folder}' was changed during the run"):
        Run(tmp_path, make(), data(clinc_file), Replace())


def test_teacher_replaced_between_fits(tmp_path, teachers, clinc_file, cache):
    folder = shutil.copytree(teachers["classes"], tmp_path / "teacher")
    fitted = module(str(folder), teacher_cache=str(cache))
    Run(tmp_path, fitted, data(clinc_file), limit_train_batches=1)
    other = tiny_bert(seed=9, **LARGE_INIT)
    save_model(other, folder)
    Run(tmp_path, fitted, data(clinc_file), max_epochs=1)
    assert num_folders(cache) == 4
    (batch,) = fitted.trainer.datamodule.subset_dataloader("train", [1, 2, 50], 3)
    with torch.no_grad():
        expected = other.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert fitted.cached_teachers["train"](batch).heads["label"].logits == pytest.approx(expected, abs=1e-5)


def test_data_replaced_between_fits(tmp_path, setups, change_data, cache):
    make, rows = setups["classes"]
    reversed_data = change_data(lambda rows: rows["train"].reverse())
    results = []
    for settings in ({}, {"teacher_cache": str(cache)}):
        fitted = make(**settings)
        Run(tmp_path, fitted, rows(), max_epochs=1)
        results.append(Run(tmp_path, fitted, copy.copy(reversed_data), max_epochs=1).losses)
    assert results[1] == pytest.approx(results[0], abs=1e-4)
    assert num_folders(cache) == 3  # the validation split is the same


# ---- invalid settings and data


def test_invalid_settings(teachers):
    with pytest.raises(ValueError, match=r"losses\.cosine: .*hidden_states.*teacher_cache"):
        module(teachers["classes"], losses={"cosine": HiddenStateCosineLoss()}, teacher_cache="x")
    with pytest.raises(ValueError, match=r"teacher_cache\.dtype: .*'int8'"):
        TeacherCache("x", "int8")
    with pytest.raises(ValueError, match=r"teacher_cache\.top_k: .*0"):
        TeacherCache("x", top_k=0)


@pytest.mark.parametrize("field", ["dynamic_masking", "streaming"])
def test_masking_that_changes_between_epochs(tmp_path, setups, corpus, cache, field):
    with pytest.raises(ValueError, match=rf"data\.{field}: "):
        Run(tmp_path, setups["tokens"][0](teacher_cache=str(cache)), mlm_data(corpus, **{field: True}), max_steps=2)
    assert not cache.exists()


def test_unsuitable_datamodules(teachers, clinc_file, squad_folder, open_folders):
    stochastic = data(clinc_file)
    stochastic.is_stochastic = True
    with pytest.raises(ValueError, match=r"teacher_cache: .*CLINC150DataModule"):
        open_folders(teachers["classes"], stochastic)
    with pytest.raises(ValueError, match=r"teacher_cache\.top_k: not for QuestionAnswering"):
        open_folders(teachers["spans"], squad_data(squad_folder), QuestionAnswering(), [], top_k=5)
