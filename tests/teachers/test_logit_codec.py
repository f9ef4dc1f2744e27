"""Logits as bytes: against softmax in double precision, and NumPy's own rounding."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from lightning_kd.teachers.logit_codec import LogitCodec

HEADS, COUNT, CLASSES = 2, 3, 50


def logits(rows=4, classes=CLASSES, spread=5.0):
    return np.random.default_rng(0).normal(0, spread, (rows, HEADS, COUNT, classes)).astype(np.float32)


def round_trip(values, codec):
    _, heads, count, classes = values.shape
    blocks = [codec.encode(row) for row in values]
    rows = np.frombuffer(b"".join(blocks), np.uint8).reshape(len(values), -1)
    return codec.decode(rows, heads, count, classes)


def test_float32_comes_back_as_it_was():
    back = round_trip(logits(), LogitCodec())
    assert back.dtype == np.float32
    assert np.array_equal(back, logits())


def test_float16_is_rounded_to_the_nearest():
    values = logits()
    back = round_trip(values, LogitCodec("float16"))
    assert back.dtype == np.float32
    assert np.all(np.abs(back - values) <= np.spacing(np.abs(values).astype(np.float16)).astype(np.float32) / 2)
    assert round_trip(back, LogitCodec("float16")).tobytes() == back.tobytes()  # rounded once


@pytest.mark.parametrize("spread", [0.0, 5.0, 80.0])
@pytest.mark.parametrize("top_k", [1, 7, CLASSES - 1])
def test_top_k_keeps_the_probabilities_of_the_largest_and_the_mass_of_the_rest(top_k, spread):
    values = logits(spread=spread)
    back = round_trip(values, LogitCodec(top_k=top_k)).astype(np.float64)
    exact = softmax(values.astype(np.float64), axis=-1)
    kept = np.take_along_axis(values, np.argsort(-values, axis=-1)[..., :top_k], axis=-1).min(axis=-1, keepdims=True)
    largest = values >= kept if spread else back == values
    assert np.array_equal(back[largest], values[largest])
    assert softmax(back, axis=-1)[largest] == pytest.approx(exact[largest], rel=1e-5)
    tables = (table.reshape(-1, CLASSES) for table in (back, exact, largest))
    for one, whole, where in zip(*tables, strict=True):
        assert len(set(one[~where])) <= 1
        assert softmax(one)[~where].sum() == pytest.approx(whole[~where].sum(), rel=1e-5)


def test_top_k_of_one_other_class_loses_nothing():
    assert round_trip(logits(), LogitCodec(top_k=CLASSES - 1)) == pytest.approx(logits(), rel=1e-6)


def test_top_k_rounds_the_kept_values_only():
    values = logits()
    exact, rounded = (round_trip(values, LogitCodec(dtype, 5)) for dtype in ("float32", "float16"))
    kept = exact == values
    assert kept.sum(axis=-1).tolist() == np.full((4, HEADS, COUNT), 5).tolist()
    assert np.array_equal(rounded[kept], values[kept].astype(np.float16).astype(np.float32))
    assert np.array_equal(rounded[~kept], exact[~kept])


def test_top_k_of_no_fewer_classes_keeps_all():
    for top_k in (CLASSES, 10 * CLASSES):
        assert np.array_equal(round_trip(logits(), LogitCodec(top_k=top_k)), logits())


def test_kl_of_top_k_at_temperature_1_is_that_of_merged_classes():
    """To any student that gives the rest evenly, the divergence is that of the distributions with the rest merged."""
    teacher = logits(rows=1)[0, 0, 0].astype(np.float64)
    student = np.full(CLASSES, -1.0)
    largest = np.argsort(-teacher)[:4]
    student[largest] = [2.0, 1.0, 0.5, 0.0]
    back = round_trip(teacher.astype(np.float32)[None, None, None], LogitCodec(top_k=4)).reshape(-1)
    p, log_q = softmax(back.astype(np.float64)), log_softmax(student)
    merged_p = np.append(softmax(teacher)[largest], 1 - softmax(teacher)[largest].sum())
    merged_q = np.append(np.exp(log_q)[largest], 1 - np.exp(log_q)[largest].sum())
    assert (p * (np.log(p) - log_q)).sum() == pytest.approx((merged_p * np.log(merged_p / merged_q)).sum(), rel=1e-5)


@pytest.mark.parametrize(
    "codec", [LogitCodec(), LogitCodec("float16"), LogitCodec(top_k=4), LogitCodec("float16", 4)], ids=str
)
def test_row_of_no_distribution(codec):
    empty = np.zeros((3, 1, 0, CLASSES), np.float32)
    assert codec.encode(empty[0]) == b""
    assert round_trip(empty, codec).shape == empty.shape


def test_size_of_a_vocabulary():
    row = np.zeros((1, 20, 30522), np.float32)
    assert len(LogitCodec().encode(row)) == 20 * 30522 * 4
    assert len(LogitCodec("float16").encode(row)) == 20 * 30522 * 2
    assert len(LogitCodec("float16", 64).encode(row)) == 20 * (64 * 6 + 4)  # value and index, and what the rest has
