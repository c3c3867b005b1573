"""The diagonal of cross-attention: by hand, at both ends, with padding, and as fresh nets begin."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remask.core.alphabet import Alphabet
from remask.nets.diagonal import BUCKETS, FAR, diagonal, start
from remask.nets.encoder_decoder import build
from remask.nets.relative import bucket

ALPHABET = Alphabet(size=30, mask=2, pad=0, end=1, special=frozenset({0, 1, 2}))


def row(length, of):
    return (torch.arange(of) < length)[None]


def by_hand(table, source, target):
    """Entry by entry, in whole fractions."""
    last = max(target - 1, 1)
    bias = torch.empty(table.shape[1], target, source)
    for cell in range(target):
        point = int((2 * cell * (source - 1) + last) // (2 * last))
        for place in range(source):
            index = bucket(torch.tensor(place - point).clamp(-FAR, FAR), BUCKETS, FAR, two_ways=True)
            bias[:, cell, place] = table[index]
    return bias


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_it_is_the_table_at_the_distance_from_the_same_share_of_the_way(source, target, more, further):
    table = torch.randn(BUCKETS, 3, generator=torch.Generator().manual_seed(source * 10 + target))
    found = diagonal(table, row(source, source + more), target + further, row(target, target + further))
    assert torch.equal(found[0, :, :target, :source], by_hand(table, source, target))
    assert (found[..., source:] == -torch.inf).all()
    assert found[..., :source].isfinite().all()


def test_both_ends_meet_whatever_the_lengths():
    table = torch.zeros(BUCKETS, 1)
    table[0] = 1.0  # no distance
    for source, target in ((5, 12), (12, 5), (7, 7), (2, 9)):
        found = diagonal(table, row(source, source), target, None)[0, 0]
        assert found[0, 0] == found[-1, -1] == 1
        assert (found.sum(1) == 1).all()  # one place for each cell


def test_a_row_is_the_same_alone_and_in_a_batch():
    table = torch.randn(BUCKETS, 2, generator=torch.Generator().manual_seed(0))
    source = torch.cat([row(4, 9), row(9, 9), row(6, 9)])
    target = torch.cat([row(7, 8), row(3, 8), row(8, 8)])
    found = diagonal(table, source, 8, target)
    for k in range(3):
        assert torch.equal(found[k], diagonal(table, source[k : k + 1], 8, target[k : k + 1])[0])


def test_slopes_at_the_start():
    table = start(4)
    distances = torch.tensor([0, 1, 2, 5])
    index = torch.stack([bucket(side * distances, BUCKETS, FAR, two_ways=True) for side in (-1, 1)])
    expected = -distances[:, None] * torch.tensor([1.0, 0.5, 0.25, 1.0])
    assert all(torch.equal(table[side], expected) for side in index)


@pytest.mark.parametrize("net", ["tiny", "mini"])
def test_fresh_parallel_nets_look_along_it_and_causal_ones_have_none(net):
    made = build(net, ALPHABET, 20)
    assert torch.equal(made.model.diagonal.weight, start(made.heads))
    assert "diagonal.weight" not in build(net, ALPHABET, 20, causal=True).model.state_dict()


def test_a_shuffled_source_is_told_apart_by_masks_alone():
    """Without the diagonal, and with sources that carry no places, a cell of masks hears the same of any order."""
    net = build("tiny", ALPHABET, 8).eval()
    with torch.no_grad():
        for table in (net.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight,):
            table.zero_()
        source = torch.tensor([[5, 9, 14, 22, 7, 1]])
        other = source[:, [3, 1, 4, 0, 2, 5]]
        target = torch.tensor([[2, 2, 2, 2, 1]])
        seen = torch.ones_like(source, dtype=torch.bool)

        def hidden(tokens):
            return net.read(tokens, seen).hidden(target)

        assert not torch.allclose(hidden(source), hidden(other), atol=1e-3)
        net.model.diagonal.weight.zero_()
        assert torch.allclose(hidden(source), hidden(other), atol=1e-4)
