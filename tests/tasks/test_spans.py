"""Best span, against a brute-force search."""

import pytest
import torch

from lightning_kd.tasks.spans import best_spans


def brute_force_search(starts, ends, mask, longest):
    """Return score, start and end of the best span."""
    pairs = [
        (float(starts[i]) + float(ends[j]), i, j)
        for i in range(len(starts))
        for j in range(i, min(i + longest, len(ends)))
        if mask[i] and mask[j]
    ]
    return max(pairs, key=lambda pair: pair[0])


@pytest.mark.parametrize("longest", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_brute_force(longest, dtype):
    torch.manual_seed(longest)
    starts, ends = (torch.randn(40, 25).to(dtype) for _ in range(2))
    mask = torch.zeros(40, 25, dtype=torch.bool)
    for row in mask:
        first = int(torch.randint(24, ()))
        row[first : first + 1 + int(torch.randint(25, ()))] = True
    spans = best_spans(starts, ends, mask, longest)
    for row in range(40):
        score, start, end = brute_force_search(starts[row], ends[row], mask[row], longest)
        assert float(spans.score[row]) == pytest.approx(score)
        if dtype is torch.float32:  # bfloat16 has ties
            assert (int(spans.start[row]), int(spans.end[row])) == (start, end)
        assert mask[row, spans.start[row] : spans.end[row] + 1].all()
        assert 0 <= spans.end[row] - spans.start[row] < longest


def test_start_after_end_is_no_span():
    # the best start is 2, the best end 0
    spans = best_spans(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[9.0, 0.0, 1.0]]), torch.ones(1, 3).bool(), 3)
    assert (spans.start.item(), spans.end.item(), spans.score.item()) == (2, 2, 10.0)


def test_all_positions_masked():
    spans = best_spans(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3).bool(), 3)
    assert spans.score.item() == -torch.inf


def test_no_examples():
    assert best_spans(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3).bool(), 3).start.shape == (0,)
