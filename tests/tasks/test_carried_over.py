"""Probabilities carried over to other tokens: against a sum in double precision, token by token."""

import math

import numpy as np
import torch
from scipy.special import softmax

from lightning_kd.tasks.carried_over import carried_over


def test_against_a_sum_over_tokens():
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 4, (5, 9))).float()
    mask = torch.from_numpy(generator.random((5, 9)) < 0.7)
    mask[:, 0] = True
    to = torch.from_numpy(generator.integers(-1, 7, (5, 9)))
    to[:, 0] = 0
    carried = carried_over(logits, mask, to, 7)
    assert carried.isfinite().all()
    for row in range(5):
        counts = mask[row].numpy()
        p = np.zeros(9)
        p[counts] = softmax(logits[row].double().numpy()[counts])
        expected = np.zeros(7)
        for token in range(9):
            if to[row, token] >= 0:
                expected[to[row, token]] += p[token]
        got = expected > 0
        np.testing.assert_allclose(carried[row].exp().numpy()[got], expected[got], rtol=1e-4)
        np.testing.assert_allclose(carried[row].exp().numpy()[~got], expected[got].min(), rtol=1e-4)


def test_tokens_that_stay_in_their_places_keep_their_distribution():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) * 5
    to = torch.arange(6).expand(3, 6)
    carried = carried_over(logits, torch.ones(3, 6, dtype=torch.bool), to, 6)
    torch.testing.assert_close(carried, logits.log_softmax(dim=-1))


def test_small_probabilities_are_not_rounded_to_nothing():
    logits = torch.tensor([[300.0, 0.0, 0.0, -50.0]])
    carried = carried_over(logits, torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0, 1, 1, 2]]), 4)
    expected = torch.tensor([[0.0, -300.0 + math.log(2), -350.0, -350.0]])
    torch.testing.assert_close(carried, expected)


def test_half_precision_is_summed_in_single():
    logits = torch.full((1, 64), 1.0, dtype=torch.bfloat16)
    carried = carried_over(logits, torch.ones(1, 64, dtype=torch.bool), torch.zeros(1, 64, dtype=torch.long), 2)
    assert carried.dtype == torch.float32
    torch.testing.assert_close(carried[0, 0], torch.tensor(0.0), atol=1e-6, rtol=0)
