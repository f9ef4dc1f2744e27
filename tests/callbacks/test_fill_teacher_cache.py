"""FillTeacherCache runs the teacher on all examples before training."""

import numpy as np
import pytest

from lightning_kd import QuestionAnswering
from lightning_kd.callbacks import FillTeacherCache
from lightning_kd.losses import HardLabelLoss
from lightning_kd.teachers.cache_store import RowStore
from tests.helpers import cache_folders, data, module, squad_data, trainer


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def fit(tmp_path, fitted, datamodule, *callbacks):
    trainer(tmp_path, callbacks=list(callbacks), max_steps=1).fit(fitted, datamodule)


def test_batch_size(tmp_path, teachers, clinc_file, cache, teacher_calls):
    fit(tmp_path, module(teachers["classes"], teacher_cache=str(cache)), data(clinc_file), FillTeacherCache(40))
    assert teacher_calls.sizes == [16, 16, 4, 40, 32]  # the validation split is scored first
    with pytest.raises(ValueError, match=r"FillTeacherCache\.batch_size: .*0"):
        FillTeacherCache(0)


def test_longest_examples_first_and_stored_without_padding(tmp_path, teachers, squad_folder, cache, teacher_calls):
    datamodule = squad_data(squad_folder)
    fitted = module(teachers["spans"], task=QuestionAnswering(), teacher_cache=str(cache))
    fit(tmp_path, fitted, datamodule, FillTeacherCache())
    lengths = {split: datamodule.row_lengths(split) for split in ("train", "validation")}
    filled = [lengths["train"][row] for batch in teacher_calls.batches[-3:] for row in batch]
    assert filled == sorted(lengths["train"], reverse=True)
    for split, folder in cache_folders(cache).items():
        size = 8 * sum(lengths[split])  # two heads with a float32 for each token
        assert (folder / "values.bin").stat().st_size == pytest.approx(size, rel=0.3)
        assert RowStore(folder, np.ones(len(lengths[split])))._entries["size"].sum() == size


def test_nothing_to_fill(tmp_path, teachers, clinc_file, cache):
    with pytest.raises(ValueError, match=r"model\.teacher_cache: "):
        fit(tmp_path, module(teachers["classes"]), data(clinc_file), FillTeacherCache())
    without_teacher = module(losses={"hard": HardLabelLoss()}, teacher_cache=str(cache))
    with pytest.raises(ValueError, match=r"model\.teacher: "):
        fit(tmp_path, without_teacher, data(clinc_file), FillTeacherCache())
    fit(tmp_path, without_teacher, data(clinc_file))
    assert not cache.exists()
