import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_kd import SequenceClassification


@pytest.mark.parametrize("counts", [[20] * 150, [436, 436], [900, 50, 50], [30, 20], [1000] + [20] * 150])
def test_a_teacher_that_always_gives_one_answer_rarely_beats_chance(counts):
    chance = SequenceClassification().chance(torch.tensor(counts))
    rows, majority = sum(counts), max(counts) / sum(counts)
    assert majority < chance < 1
    assert binom.sf(np.floor(chance * rows), rows, majority) < 0.05


def test_chance_on_many_balanced_rows_is_close_to_one_in_c():
    assert SequenceClassification().chance(torch.tensor([20] * 150)) == pytest.approx(1 / 150, abs=0.005)


@pytest.mark.parametrize("counts", [[5], [0, 7, 0]])
def test_chance_with_one_class_lets_every_teacher_pass(counts):
    assert SequenceClassification().chance(torch.tensor(counts)) == 0


@pytest.mark.parametrize("counts", [[1, 1], [2, 1], [1, 1, 1], [5, 1]])
def test_a_perfect_teacher_beats_chance_on_few_rows(counts):
    assert max(counts) / sum(counts) < SequenceClassification().chance(torch.tensor(counts)) < 1
