"""Transfer of token probabilities, against a sum in double precision."""

import math

import numpy as np
import torch
from scipy.special import softmax

from lightning_kd.tasks.token_transfer import transfer_token_probabilities


def test_agrees_with_a_sum_over_tokens():
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 4, (5, 9))).float()
    mask = torch.from_numpy(generator.random((5, 9)) < 0.7)
    mask[:, 0] = True
    target_index = torch.from_numpy(generator.integers(-1, 7, (5, 9)))
    target_index[:, 0] = 0
    log_probs = transfer_token_probabilities(logits, mask, target_index, 7)
    assert log_probs.isfinite().all()
    for row in range(5):
        counts = mask[row].numpy()
        p = np.zeros(9)
        p[counts] = softmax(logits[row].double().numpy()[counts])
        expected = np.zeros(7)
        for token in range(9):
            if target_index[row, token] >= 0:
                expected[target_index[row, token]] += p[token]
        got = expected > 0
        np.testing.assert_allclose(log_probs[row].exp().numpy()[got], expected[got], rtol=1e-4)
        np.testing.assert_allclose(log_probs[row].exp().numpy()[~got], expected[got].min(), rtol=1e-4)


def test_identity_keeps_the_distribution():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) * 5
    target_index = torch.arange(6).expand(3, 6)
    log_probs = transfer_token_probabilities(logits, torch.ones(3, 6, dtype=torch.bool), target_index, 6)
    torch.testing.assert_close(log_probs, logits.log_softmax(dim=-1))


def test_small_probabilities_do_not_underflow():
    logits = torch.tensor([[300.0, 0.0, 0.0, -50.0]])
    log_probs = transfer_token_probabilities(
        logits, torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0, 1, 1, 2]]), 4
    )
    expected = torch.tensor([[0.0, -300.0 + math.log(2), -350.0, -350.0]])
    torch.testing.assert_close(log_probs, expected)


def test_half_precision_is_summed_in_float32():
    logits = torch.full((1, 64), 1.0, dtype=torch.bfloat16)
    log_probs = transfer_token_probabilities(
        logits, torch.ones(1, 64, dtype=torch.bool), torch.zeros(1, 64, dtype=torch.long), 2
    )
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs[0, 0], torch.tensor(0.0), atol=1e-6, rtol=0)
