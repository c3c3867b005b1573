"""The exact cache: kept states change no answer, however rows leave, repeat, or turn into other texts."""

import copy
from dataclasses import replace

import pytest
import torch

from remask.core.canvas import Canvas
from remask.core.sampler import run, sample
from remask.core.stream import Stream
from remask.nets.block_conditional import BlockConditional, need_blocks
from remask.nets.blockwise import in_blocks
from remask.nets.conditional import NetConditional
from remask.samplers.blocks import Blocks
from remask.samplers.confidence import Confidence
from remask.samplers.first_hitting import FirstHitting
from tests.nets.tiny import ALPHABET, MASK, make, masked, text

S, L = 4, 14


def net():
    return in_blocks(copy.deepcopy(make("remask-modernbert")), S).double()


def conditional(**rest):
    return BlockConditional(net(), ALPHABET, **rest)


def canvases(rows=3, known=0):
    tokens = text(rows, L)
    tokens[:, known:] = MASK
    frozen = torch.zeros(rows, L, dtype=torch.bool)
    frozen[:, :known] = True
    return Canvas(tokens, frozen)


def asked(tokens, begin, end):
    at = torch.zeros_like(tokens, dtype=torch.bool)
    at[:, begin:end] = tokens[:, begin:end] == MASK
    return at


def test_every_block_of_a_row_in_turn_cached_and_not():
    """Block after block masked, asked, finished: with the cache in logits to 1e-10 (float64)."""
    clean = text(2, L)
    cached, plain = conditional(), NetConditional(net(), ALPHABET)
    for begin in range(0, L, S):
        end = min(begin + S, L)
        for draw in range(2):  # twice in a block: other cells are open
            canvas = clean.clone()
            canvas[:, end:] = MASK
            canvas[:, begin:end] = masked(clean[:, begin:end], share=0.7, seed=10 * begin + draw)
            at = asked(canvas, begin, end)
            upto = torch.full((2,), begin)
            assert torch.allclose(cached.given(canvas, upto)(canvas, at), plain(canvas, at), atol=1e-10)


def test_other_texts_are_answered_rightly():
    """States made of other tokens are not used: the parent stays valid whatever its children were asked."""
    one, plain = conditional(), NetConditional(net(), ALPHABET)
    for seed in range(4):
        canvas = text(2, L, seed)
        canvas[:, 8:] = MASK
        at, upto = asked(canvas, 8, 12), torch.tensor([8, 4])
        assert torch.allclose(one.given(canvas, upto)(canvas, at), plain(canvas, at), atol=1e-10)


def test_cells_of_settled_blocks_are_answered_too():
    """What is kept of a cell is no answer to a question about it: its block is read again."""
    one, plain = conditional(), NetConditional(net(), ALPHABET)
    canvas = text(2, L)
    canvas[:, 8:] = MASK
    upto = torch.full((2,), 8)
    one.given(canvas, upto)(canvas, asked(canvas, 8, 12))
    at = asked(canvas, 8, 12)
    at[0, 2] = at[1, 6] = True
    assert torch.allclose(one.given(canvas, upto)(canvas, at), plain(canvas, at), atol=1e-10)


def test_some_of_the_rows_in_any_order_and_repeated():
    one, plain = conditional(), NetConditional(net(), ALPHABET)
    canvas = text(3, L)
    canvas[:, 8:] = MASK
    at, upto = asked(canvas, 8, 12), torch.full((3,), 8)
    whole = plain(canvas, at).view(3, 4, -1)
    one.given(canvas, upto)(canvas, at)
    for index in ([2, 0], [1], [0, 0, 2], [2, 1, 0]):
        index = torch.tensor(index)
        found = one.rows(index).given(canvas[index], upto[index])(canvas[index], at[index])
        assert torch.allclose(found.view(len(index), 4, -1), whole[index], atol=1e-10)
        later = one.given(canvas, upto).rows(index)(canvas[index], at[index])
        assert torch.allclose(later.view(len(index), 4, -1), whole[index], atol=1e-10)


@pytest.mark.parametrize("known", [0, 3, 4, 9])
@pytest.mark.parametrize("inner", [FirstHitting(), Confidence(steps=2)], ids=["first_hitting", "confidence"])
def test_one_seed_one_text(inner, known):
    """Sampled texts are the same with the cache and without it, rows that end early and prompts included."""
    sampler = Blocks(inner, size=S, aligned=True, stop=False)
    found = [
        sample(sampler, conditional(cache=cache), canvases(known=known), Stream.of(7, 3)).tokens
        for cache in (True, False)
    ]
    assert torch.equal(*found)
    if known or isinstance(inner, FirstHitting):  # the masks of a first block are equally sure, up to rounding
        whole = sample(sampler, NetConditional(net(), ALPHABET), canvases(known=known), Stream.of(7, 3)).tokens
        assert torch.equal(found[0], whole)


def test_a_row_alone_or_beside_others():
    sampler = Blocks(Confidence(steps=2), size=S, aligned=True, stop=False)
    together = sample(sampler, conditional(), canvases(), Stream.of(7, 3)).tokens
    for row in range(3):
        index = torch.tensor([row])
        alone = sample(sampler, conditional(), canvases().rows(index), Stream.of(7, index)).tokens
        assert torch.equal(alone[0], together[row])


def test_a_block_costs_its_steps_and_reads_itself_and_the_one_before():
    """The clean pass of a finished block is merged into the next call: no call more, and no cell read thrice."""
    one = conditional()
    read = []
    extend = one.net.extend

    def noted(tokens, *rest):
        read.append(tokens.shape[1])
        return extend(tokens, *rest)

    one.net.extend = noted
    calls = sum(
        int(info.calls[0])
        for _, info in run(
            Blocks(Confidence(steps=2), size=S, aligned=True, stop=False), one, canvases(rows=1), Stream.of(1, 1)
        )
    )
    assert calls == 8  # four blocks, two steps
    assert read == [8, 4, 8, 4, 6, 2]  # the first block has nothing given before it, and is read as any canvas


def test_the_cache_is_refused_where_it_would_lie():
    from remask.core.errors import BadInput

    with pytest.raises(BadInput, match="remask train block_diffusion"):
        need_blocks(make("remask-modernbert"))
    assert need_blocks(net()).block == S


def test_without_a_cache_nothing_is_kept():
    one = conditional(cache=False)
    sample(Blocks(FirstHitting(), size=S, aligned=True, stop=False), one, canvases(), Stream.of(0, 3))
    assert one.held.states is None
    assert replace(one, cache=True).held is one.held
