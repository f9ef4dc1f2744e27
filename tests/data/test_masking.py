"""Masked tokens: frequencies, whole words and weights."""

import numpy as np
import pytest

from lightning_kd.data.masking import Masking, smoothed_weights
from lightning_kd.outputs import IGNORE_INDEX

SPECIAL = np.array([0, 1, 2, 3])
IDS = np.array([1, *range(10, 40), 2])


def draw(masking, times=4000, ids=IDS, word_ids=None):
    pairs = [masking.apply(ids, word_ids, np.random.default_rng([7, time])) for time in range(times)]
    return np.stack([masked_ids for masked_ids, _ in pairs]), np.stack([labels for _, labels in pairs])


def masking(**changes):
    return Masking(**{"probability": 0.15, "mask_token_id": 3, "special_ids": SPECIAL, "vocab_size": 50, **changes})


def test_frequencies():
    masked_ids, labels = draw(masking())
    selected = labels != IGNORE_INDEX
    assert not selected[:, [0, -1]].any()
    assert selected[:, 1:-1].mean() == pytest.approx(0.15, abs=0.005)
    kept, masked = masked_ids == IDS, masked_ids == 3
    assert masked[selected].mean() == pytest.approx(0.8, abs=0.01)
    # one of 50 random tokens is the original one
    assert kept[selected].mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    assert kept[~selected].all()
    assert (labels[selected] == np.broadcast_to(IDS, labels.shape)[selected]).all()
    replaced = masked_ids[selected & ~kept & ~masked]
    assert replaced.min() >= 0
    assert replaced.max() == 49


def test_masks_depend_on_the_generator_only():
    first, again = draw(masking(), times=20), draw(masking(), times=20)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[1][0], first[1][1])


def test_whole_words():
    word_ids = np.array([-1, *np.repeat(np.arange(10), 3), -1])
    _, labels = draw(masking(), word_ids=word_ids)
    selected = (labels != IGNORE_INDEX)[:, 1:-1].reshape(-1, 10, 3)
    assert (selected.all(axis=-1) == selected.any(axis=-1)).all()
    assert selected.mean() == pytest.approx(0.15, abs=0.01)


def test_weights_select_rare_tokens_more_often():
    counts = np.ones(50, dtype=int)
    counts[10:25] = 10_000  # 1 for the others
    weights = smoothed_weights(counts, 0.5)
    assert weights[10] == pytest.approx(0.01)
    _, labels = draw(masking(token_weights=weights))
    selected = labels != IGNORE_INDEX
    assert selected.sum(axis=1).mean() == pytest.approx(0.15 * 30, abs=0.05)
    assert set(selected.sum(axis=1)) == {4, 5}
    frequent, rare = selected[:, 1:16].mean(), selected[:, 16:31].mean()
    assert rare == pytest.approx(0.3, abs=0.01)
    assert frequent < 0.006


def test_smoothed_weights():
    assert (smoothed_weights(np.array([0, 1, 5, 100]), 0.0) == 1).all()
    assert smoothed_weights(np.array([0, 1, 16]), 0.5).tolist() == [1, 1, 0.25]


def test_special_tokens_only():
    for weights in (None, np.ones(50)):
        masked_ids, labels = draw(masking(token_weights=weights), times=5, ids=np.array([1, 2]))
        assert (labels == IGNORE_INDEX).all()
        assert (masked_ids == [1, 2]).all()
