"""Which tokens are hidden, against the shares and weights asked for."""

import numpy as np
import pytest

from lightning_kd.data.masking import Masking, smoothed_weights
from lightning_kd.outputs import IGNORE_INDEX

SPECIAL = np.array([0, 1, 2, 3])
IDS = np.array([1, *range(10, 40), 2])


def draw(masking, times=4000, ids=IDS, words=None):
    pairs = [masking.apply(ids, words, np.random.default_rng([7, time])) for time in range(times)]
    return np.stack([shown for shown, _ in pairs]), np.stack([labels for _, labels in pairs])


def masking(**changes):
    return Masking(**{"probability": 0.15, "mask_token_id": 3, "special_ids": SPECIAL, "vocab_size": 50, **changes})


def test_shares():
    shown, labels = draw(masking())
    chosen = labels != IGNORE_INDEX
    assert not chosen[:, [0, -1]].any()
    assert chosen[:, 1:-1].mean() == pytest.approx(0.15, abs=0.005)
    kept, masked = shown == IDS, shown == 3
    assert masked[chosen].mean() == pytest.approx(0.8, abs=0.01)
    # one in 50 of the replaced ones is by chance the token itself
    assert kept[chosen].mean() == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    assert kept[~chosen].all()
    assert (labels[chosen] == np.broadcast_to(IDS, labels.shape)[chosen]).all()
    replaced = shown[chosen & ~kept & ~masked]
    assert replaced.min() >= 0
    assert replaced.max() == 49


def test_draws_are_those_of_the_generator():
    first, again = draw(masking(), times=20), draw(masking(), times=20)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[1][0], first[1][1])


def test_words_are_hidden_whole():
    words = np.array([-1, *np.repeat(np.arange(10), 3), -1])
    _, labels = draw(masking(), words=words)
    chosen = (labels != IGNORE_INDEX)[:, 1:-1].reshape(-1, 10, 3)
    assert (chosen.all(axis=-1) == chosen.any(axis=-1)).all()
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)


def test_weights_choose_rare_tokens_more_often():
    counts = np.ones(50, dtype=int)
    counts[10:25] = 10_000  # against one of the others
    weights = smoothed_weights(counts, 0.5)
    assert weights[10] == pytest.approx(0.01)
    _, labels = draw(masking(token_weights=weights))
    chosen = labels != IGNORE_INDEX
    assert chosen.sum(axis=1).mean() == pytest.approx(0.15 * 30, abs=0.05)
    assert set(chosen.sum(axis=1)) == {4, 5}
    frequent, rare = chosen[:, 1:16].mean(), chosen[:, 16:31].mean()
    assert rare == pytest.approx(0.3, abs=0.01)
    assert frequent < 0.006


def test_without_smoothing_all_weigh_the_same():
    assert (smoothed_weights(np.array([0, 1, 5, 100]), 0.0) == 1).all()
    assert smoothed_weights(np.array([0, 1, 16]), 0.5).tolist() == [1, 1, 0.25]


def test_row_of_special_tokens_only():
    for weights in (None, np.ones(50)):
        shown, labels = draw(masking(token_weights=weights), times=5, ids=np.array([1, 2]))
        assert (labels == IGNORE_INDEX).all()
        assert (shown == [1, 2]).all()
