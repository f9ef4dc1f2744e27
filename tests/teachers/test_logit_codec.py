"""Encoded logits against softmax in double precision and NumPy's rounding."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from lightning_kd.teachers.logit_codec import LogitCodec

HEADS, DISTRIBUTIONS, CLASSES = 2, 3, 50


def random_logits(spread=5.0):
    return np.random.default_rng(0).normal(0, spread, (4, HEADS, DISTRIBUTIONS, CLASSES)).astype(np.float32)


LOGITS = random_logits()


def round_trip(logits, codec):
    blocks = b"".join(codec.encode(example) for example in logits)
    return codec.decode(np.frombuffer(blocks, np.uint8).reshape(len(logits), -1), *logits.shape[1:])


def test_float32_is_exact():
    decoded = round_trip(LOGITS, LogitCodec())
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, LOGITS)


def test_float16_is_rounded_once_to_nearest():
    decoded = round_trip(LOGITS, LogitCodec("float16"))
    assert decoded.dtype == np.float32
    assert np.all(np.abs(decoded - LOGITS) <= np.spacing(np.abs(LOGITS).astype(np.float16)).astype(np.float32) / 2)
    assert np.array_equal(round_trip(decoded, LogitCodec("float16")), decoded)


@pytest.mark.parametrize("spread", [0.0, 5.0, 80.0])
@pytest.mark.parametrize("top_k", [1, 7, CLASSES - 1])
def test_top_k_preserves_the_largest_probabilities_and_the_sum_of_the_rest(top_k, spread):
    logits = random_logits(spread)
    decoded = round_trip(logits, LogitCodec(top_k=top_k)).astype(np.float64)
    exact = softmax(logits.astype(np.float64), axis=-1)
    threshold = np.sort(logits, axis=-1)[..., -top_k, None]
    largest = logits >= threshold if spread else decoded == logits
    assert np.array_equal(decoded[largest], logits[largest])
    assert softmax(decoded, axis=-1)[largest] == pytest.approx(exact[largest], rel=1e-5)
    tables = (table.reshape(-1, CLASSES) for table in (decoded, exact, largest))
    for row, probabilities, kept in zip(*tables, strict=True):
        assert len(set(row[~kept])) <= 1
        assert softmax(row)[~kept].sum() == pytest.approx(probabilities[~kept].sum(), rel=1e-5)


@pytest.mark.parametrize(("top_k", "tolerance"), [(CLASSES - 1, 1e-6), (CLASSES, 0), (10 * CLASSES, 0)])
def test_top_k_of_all_classes_or_all_but_one_loses_nothing(top_k, tolerance):
    assert round_trip(LOGITS, LogitCodec(top_k=top_k)) == pytest.approx(LOGITS, rel=tolerance, abs=0)


def test_top_k_rounds_only_the_largest():
    exact, rounded = (round_trip(LOGITS, LogitCodec(dtype, 5)) for dtype in ("float32", "float16"))
    kept = exact == LOGITS
    assert kept.sum(axis=-1).tolist() == np.full((4, HEADS, DISTRIBUTIONS), 5).tolist()
    assert np.array_equal(rounded[kept], LOGITS[kept].astype(np.float16).astype(np.float32))
    assert np.array_equal(rounded[~kept], exact[~kept])


def test_kl_divergence_of_top_k_equals_that_of_merged_classes():
    """Holds at temperature 1 for a student with equal logits for the other classes."""
    teacher = LOGITS[0, 0, 0].astype(np.float64)
    student = np.full(CLASSES, -1.0)
    largest = np.argsort(-teacher)[:4]
    student[largest] = [2.0, 1.0, 0.5, 0.0]
    decoded = round_trip(LOGITS[:1, :1, :1], LogitCodec(top_k=4)).reshape(-1)
    p, log_q = softmax(decoded.astype(np.float64)), log_softmax(student)
    merged_p = np.append(softmax(teacher)[largest], 1 - softmax(teacher)[largest].sum())
    merged_q = np.append(np.exp(log_q)[largest], 1 - np.exp(log_q)[largest].sum())
    assert (p * (np.log(p) - log_q)).sum() == pytest.approx((merged_p * np.log(merged_p / merged_q)).sum(), rel=1e-5)


@pytest.mark.parametrize(
    "codec", [LogitCodec(), LogitCodec("float16"), LogitCodec(top_k=4), LogitCodec("float16", 4)], ids=str
)
def test_example_without_distributions(codec):
    empty = np.zeros((3, 1, 0, CLASSES), np.float32)
    assert codec.encode(empty[0]) == b""
    assert round_trip(empty, codec).shape == empty.shape


def test_encoded_size():
    logits = np.zeros((1, 20, 30522), np.float32)
    assert len(LogitCodec().encode(logits)) == 20 * 30522 * 4
    assert len(LogitCodec("float16").encode(logits)) == 20 * 30522 * 2
    assert len(LogitCodec("float16", 64).encode(logits)) == 20 * (64 * (2 + 4) + 4)  # values, indices, rest
