"""Choosing cells: exactly so many, uniformly, and only where allowed."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.choose import LONGEST_SPAN, best, each, exactly, spans, words
from remask.core.stream import Purpose, Stream
from tests.oracle import surprise

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


# ---- words -----------------------------------------------------------------------------------------------------------


def words_slowly(uniform, among, count, inside, documents):
    """One row, by definition: (groups of cells, cells taken)."""
    groups = []
    for i in range(len(uniform)):
        if not among[i]:
            continue
        if i == 0 or not inside[i] or not among[i - 1] or documents[i] != documents[i - 1]:
            groups.append([])
        groups[-1].append(i)
    taken = []
    for group in sorted(groups, key=lambda group: float(uniform[group[0]])):
        if len(taken) + len(group) > count:
            break
        taken += group
    return groups, sorted(taken or (min(groups, key=lambda group: float(uniform[group[0]]))[:count] if groups else []))


def text_of(seed, rows, length):
    """Words of one to several tokens, cells that are no text, and documents."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(rows, length, generator=generator) < 0.6
    among = torch.rand(rows, length, generator=generator) < 0.85
    documents = (torch.rand(rows, length, generator=generator) < 0.15).cumsum(1)
    return inside, among, documents


@laws
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 30), st.data())
def test_words_are_those_of_a_slow_definition(seed, rows, length, data):
    inside, among, documents = text_of(seed, rows, length)
    count = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=rows, max_size=rows)))
    uniform = Stream.of(seed, rows).uniform(0, Purpose.MASK, length)
    chosen = words(uniform, among, count, inside, documents)
    for i in range(rows):
        groups, taken = words_slowly(uniform[i], among[i], int(count[i]), inside[i], documents[i])
        assert torch.nonzero(chosen[i])[:, 0].tolist() == taken
        split = [group for group in groups if 0 < len(set(group) & set(taken)) < len(group)]
        assert not split or (len(split) == 1 and len(split[0]) > len(taken) == count[i]), "a word was split for nothing"


def test_inputs_are_left_alone():
    inside, among, documents = text_of(0, 3, 12)
    before = inside.clone()
    words(Stream.of(0, 3).uniform(0, Purpose.MASK, 12), among, torch.full((3,), 5), inside, documents)
    assert torch.equal(inside, before)


def test_the_first_word_taken_is_any_word_alike_whatever_its_length():
    """Four words of one to four tokens: each is the first as often as the others."""
    rows = 8_000
    inside = torch.tensor([0, 0, 1, 0, 1, 1, 0, 1, 1, 1]).bool().expand(rows, -1)
    uniform = Stream.of(2, rows).uniform(0, Purpose.MASK, 10)
    everywhere, one = torch.ones(rows, 10, dtype=torch.bool), torch.ones(rows, dtype=torch.int64)
    first = words(uniform, everywhere, one, inside, torch.zeros(rows, 10)).long().argmax(1)
    counts = torch.bincount(first, minlength=10)[[0, 1, 3, 6]]
    assert surprise(counts, torch.ones(4)) < 4
    tokens = exactly(uniform, everywhere, one).long().argmax(1)  # the planted bug: the word of a random token
    word = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])[tokens]
    assert surprise(torch.bincount(word, minlength=4), torch.ones(4)) > 10


# ---- spans -----------------------------------------------------------------------------------------------------------


def spans_slowly(where, size, among, count, mean):
    """One row, by definition: cells of the spans in their order, until there are enough."""
    taken = []
    for j, start in enumerate(where.argsort(stable=True).tolist()):
        length, stop = 1, 1 / mean
        while length < LONGEST_SPAN and float(size[j]) >= 1 - (1 - stop) ** length:
            length += 1
        for cell in range(start, min(start + length, len(where))):
            if among[cell] and cell not in taken and len(taken) < count:
                taken.append(cell)
    return sorted(taken)


@laws
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40), st.sampled_from([1.0, 1.5, 3.0, 20.0]), st.data())
def test_spans_are_those_of_a_slow_definition(seed, rows, length, mean, data):
    among = text_of(seed, rows, length)[1]
    count = torch.tensor(data.draw(st.lists(st.integers(0, length + 1), min_size=rows, max_size=rows)))
    stream = Stream.of(seed, rows)
    where, size = stream.uniform(0, Purpose.MASK, length), stream.uniform(0, Purpose.SPAN, length)
    chosen = spans(where, size, among, count, mean)
    assert torch.equal(chosen.sum(1), torch.minimum(count, among.sum(1)))
    for i in range(rows):
        slow = spans_slowly(where[i], size[i], among[i], int(count[i]), mean)
        assert torch.nonzero(chosen[i])[:, 0].tolist() == slow


def first_spans(size, mean, rows=4_000, length=32):
    """How long the first span is in the middle of long rows, [LONGEST_SPAN] counts."""
    stream = Stream.of(4, rows)
    where, everywhere = stream.uniform(0, Purpose.MASK, length), torch.ones(rows, length, dtype=torch.bool)
    start, second = where.argsort(1)[:, :2].T
    alone = (second - start).abs() > LONGEST_SPAN  # else the second span may seem to go on with the first
    row = torch.arange(rows)[alone & (start + LONGEST_SPAN < length)]
    lengths = torch.zeros(rows, dtype=torch.int64)
    for k in range(1, LONGEST_SPAN + 1):  # the k-th cell is the first span's if it is taken as the k-th
        chosen = spans(where, size(stream, length), everywhere, torch.full((rows,), k), mean)
        lengths += chosen[torch.arange(rows), (start + k - 1).clamp(max=length - 1)] & (lengths == k - 1)
    return torch.bincount(lengths[row] - 1, minlength=LONGEST_SPAN)


def test_lengths_of_spans_are_geometric_and_at_most_ten():
    mean = 3.0
    law = (1 - 1 / mean) ** torch.arange(LONGEST_SPAN).double() / mean
    law[-1] = (1 - 1 / mean) ** (LONGEST_SPAN - 1)

    def ours(stream, length):
        return stream.uniform(0, Purpose.SPAN, length)

    def twin(stream, length):
        return stream.uniform(0, Purpose.SPAN, length) ** 2  # the planted bug: shorter ones

    assert abs(surprise(first_spans(ours, mean), law)) < 4
    assert surprise(first_spans(twin, mean), law) > 20


@laws
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_best_takes_the_highest_scores(seed, length):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 4, (6, length), generator=generator).double()
    among = torch.rand(6, length, generator=generator) < 0.7
    count = torch.randint(0, length + 2, (6,), generator=generator)
    chosen = best(score, among, count)
    assert not (chosen & ~among).any()
    assert torch.equal(chosen.sum(1), torch.minimum(count, among.sum(1)))
    for row in range(6):
        inside, left = score[row][chosen[row]], score[row][among[row] & ~chosen[row]]
        assert not len(inside) or not len(left) or inside.min() >= left.max()


def test_best_of_equals_are_the_first():
    score = torch.tensor([[1.0, 2.0, 1.0, 1.0, -torch.inf]])
    chosen = best(score, torch.tensor([[True, True, False, True, True]]), torch.tensor([2]))
    assert chosen.tolist() == [[True, True, False, False, False]]
    assert best(score, torch.ones(1, 5, dtype=torch.bool), torch.tensor([5])).all(), "minus infinity is a score too"
    low = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert best(low, torch.tensor([[False, False, True]]), torch.tensor([1])).tolist() == [[False, False, True]]
