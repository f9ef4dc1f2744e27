"""Order, coverage and padding of the samplers."""

import numpy as np
import pytest

from lightning_kd.data.samplers import EvaluationSampler, LengthGroupedSampler

BATCH = 32


def skewed_lengths(rows=2000):
    return np.random.default_rng(0).lognormal(3.0, 0.7, rows).astype(int) + 3


def sampler(rows=2000, batch_size=BATCH, replicas=1, rank=0, seed=0, epoch=0):
    made = LengthGroupedSampler(skewed_lengths(rows), batch_size, replicas, rank, seed)
    made.set_epoch(epoch)
    return made


def batches(order, size=BATCH):
    return [order[start : start + size] for start in range(0, len(order), size)]


def padding(order):
    lengths = skewed_lengths()
    return sum((lengths[batch].max() - lengths[batch]).sum() for batch in batches(order)) / len(order)


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 2, 4, 31, 32, 33, 1600, 1601, 1999, 2000])
def test_devices_share_all_examples_equally(rows, replicas):
    orders = [list(sampler(rows, replicas=replicas, rank=rank)) for rank in range(replicas)]
    assert {len(order) for order in orders} == {len(sampler(rows, replicas=replicas))} == {-(-rows // replicas)}
    assert {row for order in orders for row in order} == set(range(rows))


def test_batches_differ_between_epochs():
    first, second = ({frozenset(batch) for batch in batches(list(sampler(epoch=epoch)))} for epoch in (0, 1))
    assert not first & second


def test_order_depends_on_seed_and_epoch_only():
    made = sampler(epoch=3)
    assert list(made) == list(sampler(epoch=3))
    assert list(made) == list(sampler(epoch=4))  # a plain loop calls no set_epoch
    assert list(made) != list(sampler(epoch=3, seed=1))


def test_at_most_a_fifth_of_the_padding_of_a_random_order():
    random = np.random.default_rng(1).permutation(2000)
    assert padding(np.array(list(sampler()))) <= 0.2 * padding(random)


def test_batches_are_not_sorted_by_length():
    means = [skewed_lengths()[batch].mean() for batch in batches(list(sampler()))]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


@pytest.mark.parametrize("rows", [1601, 2000])
def test_smaller_batch_is_last(rows):
    # otherwise the batches after it would mix two groups of lengths
    order = list(sampler(rows))
    last = rows % BATCH
    groups = [skewed_lengths(rows)[batch] for batch in batches(order[: rows - last])]
    assert np.mean([group.max() - group.min() for group in groups]) <= 0.2 * np.ptp(skewed_lengths(rows))


@pytest.mark.parametrize("replicas", [2, 3])
def test_devices_have_similar_lengths_at_each_step(replicas):
    orders = [batches(list(sampler(replicas=replicas, rank=rank))) for rank in range(replicas)]
    lengths = skewed_lengths()
    steps = [[lengths[batch] for batch in step] for step in zip(*orders, strict=True)]
    assert np.mean([np.ptp([batch.mean() for batch in step]) for step in steps]) < 1
    assert np.mean([np.ptp([batch.max() for batch in step]) for step in steps]) < 0.2 * lengths.mean()


@pytest.mark.parametrize("replicas", [1, 2])
def test_batches_are_skipped_once(replicas):
    whole = list(sampler(replicas=replicas))
    made = sampler(replicas=replicas)
    made.skip_batches = 3
    assert list(made) == whole[3 * BATCH :]
    made.set_epoch(0)
    assert list(made) == whole


def test_iterator_keeps_its_epoch():
    made = sampler(epoch=0)
    iterator = iter(made)
    made.set_epoch(1)
    made.skip_batches = 5
    assert list(iterator) == list(sampler(epoch=0))


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 100, 101])
def test_evaluation_covers_each_example_once(rows, replicas):
    orders = [list(EvaluationSampler(skewed_lengths(rows), 8, replicas, rank)) for rank in range(replicas)]
    together = [row for order in orders for row in order]
    assert sorted(row for row in together if row >= 0) == list(range(rows))
    assert {len(order) for order in orders} == {-(-rows // replicas)}


@pytest.mark.parametrize("replicas", [1, 3])
def test_evaluation_starts_with_the_longest_batch(replicas):
    lengths = skewed_lengths(1000)
    ranks = [list(EvaluationSampler(lengths, 10, replicas, rank)) for rank in range(replicas)]
    assert max(lengths) in lengths[[row for order in ranks for row in order[:10]]]
    groups = [lengths[[row for row in batch if row >= 0]] for order in ranks for batch in batches(order, 10)]
    assert sum((group.max() - group).sum() for group in groups) < 0.1 * lengths.sum()


def test_first_evaluation_batches_are_representative():
    """Otherwise limit_val_batches and the sanity check would use the longest examples only."""
    lengths = skewed_lengths(2000)
    order = list(EvaluationSampler(lengths, 10, 1, 0))[10:510]
    assert lengths[order].mean() == pytest.approx(lengths.mean(), rel=0.15)


def test_evaluation_padding():
    orders = [list(EvaluationSampler([5, 9, 7, 6], 4, 3, rank)) for rank in range(3)]
    assert orders == [[1, 0], [2, ~0], [3, ~0]]
