"""Buckets: every pair as often as any other, rows of like length together, and nothing that depends on the past."""

from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.data.buckets import Buckets
from remask.data.parallel import Pairs, Ragged

laws = settings(deadline=None, database=None, max_examples=60)


def pairs_of(source_lengths, target_lengths):
    """Pairs of these lengths; what they say does not matter."""
    sides = [Ragged.of([0] * n for n in lengths) for lengths in (source_lengths, target_lengths)]
    return Pairs(*sides, torch.arange(len(sides[0].lengths)))


def random_pairs(rows, seed=0):
    """Lengths like those of sentences: log-normal, median 8, the target close to the source."""
    generator = torch.Generator().manual_seed(seed)
    source = (torch.randn(rows, generator=generator) * 0.5 + 2.1).exp()
    target = source * (torch.randn(rows, generator=generator) * 0.2).exp()
    return pairs_of((source + 1).long().tolist(), (target + 1).long().tolist())


def spread(draws, rows):
    """Between the pair drawn most often and the one drawn least often."""
    counts = torch.bincount(draws, minlength=rows)
    return int(counts.max() - counts.min())


def balanced(take, rows, pool, steps):
    """What the head of the module says of counts, for a function step -> rows."""
    draws = [take(step) for step in range(steps)]
    any_step = all(spread(torch.cat(draws[:n]), rows) <= 2 for n in range(1, steps + 1))
    whole_pools = all(spread(torch.cat(draws[:n]), rows) <= 1 for n in range(pool, steps + 1, pool))
    return any_step and whole_pools


sizes = st.tuples(st.integers(1, 40), st.integers(1, 50), st.integers(1, 6), st.integers(-(2**63), 2**64))


@laws
@given(sizes)
def test_no_pair_is_drawn_oftener_than_the_others(size):
    rows, batch, pool, seed = size
    buckets = Buckets(random_pairs(rows), batch, seed, pool=pool)
    assert balanced(buckets.take, rows, buckets.pool, 5 * buckets.pool)


@laws
@given(sizes)
def test_within_a_pool_a_pair_comes_at_most_twice(size):
    rows, batch, pool, seed = size
    batch = min(batch, rows)
    buckets = Buckets(random_pairs(rows), batch, seed, pool=pool)
    width = buckets.pool * batch
    assert width <= rows
    for number in range(6):
        draws = torch.cat([buckets.take(number * buckets.pool + turn) for turn in range(buckets.pool)])
        one_epoch = number * width // rows == ((number + 1) * width - 1) // rows
        assert max(Counter(draws.tolist()).values()) <= (1 if one_epoch else 2)


def test_where_pools_tile_the_epoch_each_epoch_has_every_pair_once():
    buckets = Buckets(random_pairs(240), 8, 3, pool=10)
    for epoch in range(4):
        draws = torch.cat([buckets.take(epoch * 30 + step) for step in range(30)])
        assert draws.sort().values.tolist() == list(range(240))


@pytest.mark.parametrize("rows", [241, 247])
def test_a_twin_that_drops_the_ragged_tail_of_its_epochs_is_caught(rows):
    """Sorted once and for all, the same longest pairs would never be seen."""
    pairs, buckets = random_pairs(rows), Buckets(random_pairs(rows), 8, 3, pool=10)
    by_length = pairs.target_lengths.argsort(stable=True)
    assert balanced(buckets.take, rows, 10, 90)
    assert not balanced(lambda step: by_length[: rows // 8 * 8].view(-1, 8)[step % (rows // 8)], rows, 10, 90)


@cache
def sequence(seed):
    return [rows.tolist() for rows in map(Buckets(random_pairs(37), 4, seed, pool=3).take, range(201))]


@laws
@given(st.lists(st.integers(0, 200), max_size=8), st.integers(0, 5))
def test_any_step_equals_that_step_of_the_whole(steps, seed):
    whole, buckets = sequence(seed), Buckets(random_pairs(37), 4, seed, pool=3)
    for step in steps:
        found = buckets.take(step)
        assert found.dtype == torch.int64
        assert found.tolist() == whole[step]
        found.zero_()  # what the caller does to a batch is no business of the next


def test_the_sequence_is_fixed_for_good():
    buckets = Buckets(pairs_of([3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]), 2, 0)
    assert [buckets.take(step).tolist() for step in range(8)] == [
        *([2, 6], [0, 4], [1, 3], [5, 7]),
        *([5, 7], [4, 0], [2, 6], [3, 1]),
    ]


def test_seeds_and_pools_differ():
    pairs = random_pairs(64)
    draws = [[Buckets(pairs, 8, seed).take(step).tolist() for step in range(32)] for seed in range(5)]
    assert len({str(whole[8 * pool : 8 * pool + 8]) for whole in draws for pool in range(4)}) == 20


def test_a_pool_is_cut_by_target_length_then_source_length():
    pairs = random_pairs(640)
    buckets = Buckets(pairs, 10, 1, pool=32)
    keys = [
        sorted((int(pairs.target_lengths[r]), int(pairs.source_lengths[r])) for r in buckets.take(step).tolist())
        for step in range(32, 64)
    ]
    keys.sort()
    assert all(left[-1] <= right[0] for left, right in pairwise(keys))
    assert keys[0][0] < keys[-1][-1]


def padding(pairs, batches):
    """Share of the cells of padded sources and targets that are padding (ends are none)."""
    cells = full = 0
    for rows in batches:
        for lengths in (pairs.source_lengths[rows] + 1, pairs.target_lengths[rows] + 1):
            cells += int(lengths.max()) * len(rows)
            full += int(lengths.sum())
    return 1 - full / cells


def test_little_is_padded():
    """Measured: 0.136 in pools of 64 batches, 0.310 of 8, 0.641 in batches drawn at random."""
    pairs = random_pairs(40_000)
    shares = [padding(pairs, map(Buckets(pairs, 64, 0, pool=pool).take, range(256))) for pool in (64, 8, 1)]
    assert shares == pytest.approx([0.136, 0.310, 0.641], abs=0.01)
    generator = torch.Generator().manual_seed(0)
    drawn = padding(pairs, (torch.randint(len(pairs), (64,), generator=generator) for _ in range(256)))
    assert abs(drawn - shares[2]) < 0.03  # a pool of one batch is such a batch


def trend(pairs, batches):
    """Correlation of the place within a batch with the length of the target there, in standard errors."""
    lengths = torch.stack([pairs.target_lengths[rows] for rows in batches]).double()
    lengths = lengths - lengths.mean(1, keepdim=True)
    place = torch.arange(lengths.shape[1]).double()
    place -= place.mean()
    slopes = lengths @ place
    return abs(float(slopes.mean() / (slopes.std() / len(slopes) ** 0.5)))


def test_within_a_batch_length_has_no_trend():
    """Else the strata of time, which go by the place in a batch, would know the length."""
    pairs = random_pairs(2000)
    batches = list(map(Buckets(pairs, 50, 0, pool=4).take, range(400)))
    assert trend(pairs, batches) < 4
    by_length = [rows[pairs.target_lengths[rows].argsort(stable=True)] for rows in batches]
    assert trend(pairs, by_length) > 20  # the twin that leaves them sorted


def test_long_and_short_batches_come_in_random_order():
    """How often the k-th shortest batch of a pool comes at turn n: 16 cells, chi-square with 9 degrees of freedom."""
    pairs = pairs_of([1] * 40, range(40))
    buckets = Buckets(pairs, 10, 0)
    assert buckets.pool == 4
    counts = torch.zeros(4, 4, dtype=torch.double)
    for step in range(4000):
        counts[step % 4, int(buckets.take(step).min()) // 10] += 1
    assert float(((counts - 250) ** 2 / 250).sum()) < 27.9  # p = 0.001


def test_bad_arguments():
    with pytest.raises(BadInput, match=r"1 or more"):
        Buckets(random_pairs(3), 0, 0)
    with pytest.raises(BadInput, match=r"1 or more"):
        Buckets(random_pairs(3), 1, 0, pool=0)
    with pytest.raises(BadInput, match=r"at least one"):
        Buckets(pairs_of([], []), 1, 0)
    with pytest.raises(BadInput, match=r"counted from 0"):
        Buckets(random_pairs(3), 1, 0).take(-1)
