"""Choosing cells: exactly so many, uniformly, and only where allowed."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.choose import each, exactly
from remask.core.stream import Purpose, Stream

laws = settings(deadline=None, database=None, max_examples=80)


@laws
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 40), st.data())
def test_exactly_takes_that_many_of_the_allowed_cells(seed, rows, length, data):
    among = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows))
    )
    count = torch.tensor(data.draw(st.lists(st.integers(0, length + 3), min_size=rows, max_size=rows)))
    uniform = Stream.of(seed, rows).uniform(0, Purpose.MASK, length)
    chosen = exactly(uniform, among, count)
    assert not (chosen & ~among).any()
    assert torch.equal(chosen.sum(1), torch.minimum(count, among.sum(1)))
    more = exactly(uniform, among, count + 1)
    assert not (chosen & ~more).any(), "one more cell is one more cell, the others stay"


@laws
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_a_row_does_not_depend_on_the_others(seed, length):
    uniform = Stream.of(seed, 5).uniform(0, Purpose.MASK, length)
    among, count = uniform < 0.8, torch.arange(5)
    whole = exactly(uniform, among, count)
    for i in range(5):
        assert torch.equal(exactly(uniform[i : i + 1], among[i : i + 1], count[i : i + 1])[0], whole[i])


def subset_chi_square(uniform, k):
    """z score of how often each k-subset of the first five of six cells is taken."""
    among = torch.tensor([True] * 5 + [False]).expand(len(uniform), 6)
    chosen = exactly(uniform, among, torch.full((len(uniform),), k))
    counts = Counter(tuple(torch.nonzero(row)[:, 0].tolist()) for row in chosen)
    subsets = list(combinations(range(5), k))
    assert set(counts) <= set(subsets)
    expected = len(uniform) / len(subsets)
    chi = sum((counts[s] - expected) ** 2 / expected for s in subsets)
    return (chi - (len(subsets) - 1)) / math.sqrt(2 * (len(subsets) - 1))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_subset_is_equally_likely(k):
    assert abs(subset_chi_square(Stream.of(k, 12_000).uniform(0, Purpose.MASK, 6), k)) < 4


def test_coarse_numbers_are_caught():
    """The planted bug: uniforms of three bits tie, and ties favour early cells."""
    uniform = Stream.of(0, 12_000).uniform(0, Purpose.MASK, 6)
    assert subset_chi_square((uniform * 8).floor() / 8, 2) > 10


def test_each_opens_cells_by_themselves():
    rows, length = 4000, 6
    uniform = Stream.of(1, rows).uniform(0, Purpose.WHERE, length)
    probability = torch.linspace(0, 1, length, dtype=torch.float64)
    among = torch.ones(rows, length, dtype=torch.bool)
    among[:, 2] = False
    chosen = each(uniform, among, probability.expand(rows, -1))
    expected = torch.where(among[0], probability, 0.0)
    error = (expected * (1 - expected) / rows).sqrt()
    assert ((chosen.double().mean(0) - expected).abs() <= 4 * error).all(), "0 and 1 are exact, the rest within 4 sigma"
    centred = chosen[:, [1, 3]].double() - expected[[1, 3]]
    assert abs(float(centred.prod(1).mean() / centred.std(0).prod())) < 4 / math.sqrt(rows)
