import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_kd import SequenceClassification


@pytest.mark.parametrize("counts", [[20] * 150, [436, 436], [900, 50, 50], [30, 20], [1000] + [20] * 150])
def test_a_teacher_that_always_gives_one_answer_rarely_beats_the_baseline_score(counts):
    baseline = SequenceClassification().baseline_score(torch.tensor(counts))
    rows, majority = sum(counts), max(counts) / sum(counts)
    assert majority < baseline < 1
    assert binom.sf(np.floor(baseline * rows), rows, majority) < 0.05


def test_baseline_score_on_many_balanced_rows_is_close_to_one_in_c():
    assert SequenceClassification().baseline_score(torch.tensor([20] * 150)) == pytest.approx(1 / 150, abs=0.005)


@pytest.mark.parametrize("counts", [[5], [0, 7, 0]])
def test_baseline_score_with_one_class_lets_every_teacher_pass(counts):
    assert SequenceClassification().baseline_score(torch.tensor(counts)) == 0


@pytest.mark.parametrize("counts", [[1, 1], [2, 1], [1, 1, 1], [5, 1]])
def test_a_perfect_teacher_beats_the_baseline_score_on_few_rows(counts):
    assert max(counts) / sum(counts) < SequenceClassification().baseline_score(torch.tensor(counts)) < 1
