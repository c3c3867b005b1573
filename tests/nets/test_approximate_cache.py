"""The approximate cache: exact where a block begins, frozen states inside it, and never what another canvas left."""

import copy
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
import transformers

from remask.cli.flags import describe
from remask.core.canvas import Canvas
from remask.core.errors import BadInput, UnknownName
from remask.core.sampler import Law, run, sample
from remask.core.stream import Stream
from remask.nets.approximate_cache import KINDS, ApproximateCache, Held, need_plain, promised
from remask.nets.blockwise import in_blocks
from remask.nets.combine import Mixture
from remask.nets.conditional import NetConditional
from remask.nets.convert import seeded
from remask.nets.directional import DirectionalForMaskedLM
from remask.nets.hf import HuggingFaceNet
from remask.nets.wrap import Temperature
from remask.samplers.blocks import Blocks
from remask.samplers.confidence import Confidence
from remask.samplers.first_hitting import FirstHitting
from tests.nets.tiny import ALPHABET, MASK, make, shake, text

S, L = 4, 14  # the last block has 2 cells
NETS = ["remask-modernbert", "modernbert", "told the time"]
nets = pytest.mark.parametrize("name", NETS)
kinds = pytest.mark.parametrize("kind", KINDS)


@cache
def net(name="remask-modernbert"):
    """In float64, shaken, all layers global."""
    if name == "remask-modernbert":
        return copy.deepcopy(make(name)).double()
    if name == "modernbert":
        config = copy.deepcopy(make(name).model.config)
        config.layer_types = ["full_attention"] * config.num_hidden_layers
        build = transformers.ModernBertForMaskedLM
    else:
        config = copy.deepcopy(make("remask-modernbert").model.config)
        config.time_conditioning = True
        build = DirectionalForMaskedLM
    with seeded(0):
        return HuggingFaceNet(shake(build(config))).double()


def cached(kind="dual", name="remask-modernbert", size=S):
    return ApproximateCache(net(name), ALPHABET, size, kind)


def plain(name="remask-modernbert"):
    return NetConditional(net(name), ALPHABET)


def canvas(rows=2, known=S, seed=0):
    """Text and masks behind it, [rows, L]."""
    tokens = text(rows, L, seed)
    tokens[:, known:] = MASK
    return tokens


def block(tokens, begin, end):
    """The masks of a block; begin and end may differ by row."""
    place = torch.arange(tokens.shape[1])
    begin, end = (torch.as_tensor(x).reshape(-1, 1) for x in (begin, end))
    return (place >= begin) & (place < end) & (tokens == MASK)


def full(rows, begin):
    return torch.full((rows,), begin)


def filled(tokens, cells, seed=9):
    """The canvas with text in some columns."""
    after = tokens.clone()
    after[:, cells] = text(*tokens.shape, seed)[:, cells]
    return after


def frozen_outside(name, before, now, fresh):
    """Hidden states of `now` where every layer sees the cells that are not `fresh` [B, L] as it saw them in `before`.

    A whole pass over each canvas, in the second of which the input of each layer is put back at those cells.
    """
    one, inputs, replay = net(name), [], []

    def note(_, args):
        inputs.append(args[0])

    def put_back(_, args):
        layer = len(replay)
        replay.append(layer)
        return (torch.where(fresh[:, :, None], args[0], inputs[layer]), *args[1:])

    for hook, tokens in ((note, before), (put_back, now)):
        handles = [layer.register_forward_pre_hook(hook) for layer in one.model.base_model.layers]
        with torch.no_grad():
            hidden = one.hidden(tokens)
        for handle in handles:
            handle.remove()
    return hidden


def reference(name, kind, before, now, begin, at):
    """Log p of the cells asked for, by hand."""
    place, begin = torch.arange(now.shape[1]), torch.as_tensor(begin).reshape(-1, 1)
    fresh = place >= begin
    if kind == "dual":
        fresh = fresh & (place < begin + S)
    with torch.no_grad():
        hidden = frozen_outside(name, before, now, fresh.expand(now.shape))
        return net(name).log_probs(hidden[at], MASK)


def distance(log_p, log_q):
    """Total variation, of each cell."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


@kinds
@nets
def test_a_block_begins_exactly(name, kind):
    """Its first call is the plain net's, bit for bit."""
    one, tokens = cached(kind, name), canvas()
    at = block(tokens, S, 2 * S)
    assert torch.equal(one.given(tokens, full(2, S))(tokens, at), plain(name)(tokens, at))


@kinds
@nets
def test_inside_a_block_what_lies_around_it_stands_still(name, kind):
    """Against a whole pass with frozen layers: call after call, rows at different blocks, one of them the short one."""
    one, begin = cached(kind, name), torch.tensor([S, 12, 8])
    first = text(3, L)
    first[torch.arange(L) >= begin[:, None]] = MASK
    upto, now = begin.clone(), first
    one.given(first, upto)(first, block(first, begin, begin + S))
    for cell in (1, 0):
        now = now.scatter(1, (begin + cell)[:, None], text(3, 1, cell))
        asked = block(now, begin, begin + S)
        asked[1, 12] = True  # in the end full, and asked all the same
        found = one.given(now, upto)(now, asked)
        assert torch.allclose(found, reference(name, kind, first, now, begin, asked), atol=1e-10)


@kinds
@nets
def test_how_far_off_it_is(name, kind):
    """Total variation from the plain net: none where a block begins, some inside it, none again at the next one."""
    one, tokens = cached(kind, name), canvas()
    off = []
    for begin, cells in ((S, []), (S, [S + 1]), (S, [S + 1, S + 2]), (2 * S, list(range(S, 2 * S)))):
        now = filled(tokens, cells)
        at = block(now, begin, begin + S)
        off.append(float(distance(one.given(now, full(2, begin))(now, at), plain(name)(now, at)).max()))
    assert off[0] == off[3] == 0
    assert all(1e-3 < x < 1 for x in off[1:3])


@kinds
def test_with_nothing_kept_it_is_the_plain_net(kind):
    one, tokens = cached(kind), canvas()
    for cells in ([], [S], [S, S + 2]):
        now = filled(tokens, cells)
        at = block(now, S, 2 * S)
        assert torch.equal(replace(one, held=Held()).given(now, full(2, S))(now, at), plain()(now, at))


@kinds
def test_a_block_that_is_the_whole_canvas_is_exact(kind):
    """Nothing lies around it. Rows with no settled cell are read whole, as they are where `given` is never called."""
    one, tokens = cached(kind, size=L), canvas(known=0)
    for cells in ([], [3], [3, 7, 8]):
        now = filled(tokens, cells)
        for asked in (one, one.given(now, full(2, 0))):
            assert torch.equal(asked(now, now == MASK), plain()(now, now == MASK))


@kinds
def test_all_cells_and_no_cells(kind):
    one, tokens = cached(kind), canvas()
    given = one.given(tokens, full(2, S))
    assert torch.equal(given(tokens), plain()(tokens))
    assert given(tokens, torch.zeros_like(tokens, dtype=torch.bool)).shape == (0, ALPHABET.size)
    some = block(tokens, S, 2 * S)
    some[0] = False
    for _ in range(2):  # a row that is asked nothing is no burden
        assert torch.allclose(given(tokens, some), plain()(tokens, some), atol=1e-10)


# ---- what is kept is used only where it holds ------------------------------------------------------------------------


@kinds
def test_another_canvas_is_read_anew(kind):
    """Text that changed around the block, or in it, another block, other cells asked for: exact every time."""
    one, tokens = cached(kind), canvas(known=2 * S)
    begin = 2 * S
    known = filled(tokens, [begin])
    around, behind, within = known.clone(), known.clone(), known.clone()
    around[:, 1] += 1 - 2 * (around[:, 1] == 59).long()
    behind[:, begin + S] = 20
    within[:, begin] += 1 - 2 * (within[:, begin] == 59).long()
    for other, first, end in (
        (around, begin, begin + S),
        (behind, begin, begin + S),
        (within, begin, begin + S),
        (known, begin + 1, begin + 1 + S),
        (known, begin, L),
    ):
        one.given(known, full(2, begin))(known, block(known, begin, begin + S))
        at = block(other, first, end)
        found = one.given(other, full(2, first))(other, at)
        assert torch.equal(found, plain()(other, at))
    for length in (9, 12):
        short = canvas()[:, :length]
        at = block(short, S, 2 * S)
        assert torch.equal(one.given(short, full(2, S))(short, at), plain()(short, at))


@kinds
def test_masks_of_the_block_may_fall_and_come_back(kind):
    """A sampler that masks again is served by what is kept, too; and the beginning asked again is exact."""
    one, tokens = cached(kind), canvas()
    for cells in ([], [S, S + 1], [S + 2], []):
        now = filled(tokens, cells)
        at = block(now, S, 2 * S)
        found = one.given(now, full(2, S))(now, at)
        assert torch.allclose(found, reference("remask-modernbert", kind, tokens, now, S, at), atol=1e-10)
    assert torch.allclose(found, plain()(tokens, at), atol=1e-10)


@kinds
def test_some_of_the_rows_in_any_order_and_repeated(kind):
    """What is kept of a row is its own, whoever is beside it; repeated rows have nothing yet."""
    one, tokens, upto = cached(kind), canvas(3), full(3, S)
    at = block(tokens, S, 2 * S)
    one.given(tokens, upto)(tokens, at)
    now = filled(tokens, [S + 1])
    at = block(now, S, 2 * S)
    whole = reference("remask-modernbert", kind, tokens, now, S, at).view(3, S - 1, -1)
    exact = plain()(now, at).view(3, S - 1, -1)
    for index in ([2, 0], [1], [0, 0, 2], [2, 1, 0]):
        wanted = exact if len(set(index)) < len(index) else whole
        index = torch.tensor(index)
        for asked in (one.rows(index).given(now[index], upto[index]), one.given(now, upto).rows(index)):
            found = asked(now[index], at[index]).view(len(index), S - 1, -1)
            assert torch.allclose(found, wanted[index], atol=1e-10)


@kinds
def test_rows_that_come_later_take_nothing_away(kind):
    """A row asked alone first, then beside others at their beginnings, goes on from what is kept of it."""
    one, tokens, upto = cached(kind), canvas(3), full(3, S)
    begun = torch.tensor([1])
    at = block(tokens, S, 2 * S)
    one.given(tokens, upto).rows(begun)(tokens[begun], at[begun])
    now = tokens.clone()
    now[1] = filled(tokens, [S + 1])[1]
    at = block(now, S, 2 * S)
    wanted = torch.where(
        torch.tensor([False, True, False])[torch.nonzero(at)[:, 0], None],
        reference("remask-modernbert", kind, tokens, now, S, at),
        plain()(now, at),
    )
    assert torch.allclose(one.given(now, upto)(now, at), wanted, atol=1e-10)


# ---- with a sampler --------------------------------------------------------------------------------------------------


def prompted(rows=3, known=3):
    tokens = canvas(rows, known)
    return Canvas(tokens, tokens != MASK)


SURE = Confidence(schedule="threshold", threshold=0.3)  # rows fill their blocks at different speeds
SAMPLERS = {"first_hitting": FirstHitting(), "sure": SURE}


@kinds
@pytest.mark.parametrize(("inner", "known"), [("first_hitting", 0), ("first_hitting", 3), ("sure", 3)])
def test_one_seed_one_text_alone_or_beside_others(kind, inner, known):
    """And whatever was written before with the same conditional."""
    sampler, one = Blocks(SAMPLERS[inner], size=S, stop=False), cached(kind)
    together = sample(sampler, one, prompted(known=known), Stream.of(7, 3)).tokens
    for row, asked in enumerate((one, one, cached(kind))):
        index = torch.tensor([row])
        alone = sample(sampler, asked, prompted(known=known).rows(index), Stream.of(7, index)).tokens
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize(("kind", "inside"), [("prefix", [8, 4]), ("dual", [4, 4])])
def test_what_a_call_reads(kind, inside):
    """Two steps a block behind a prompt: the whole canvas, then the block (dual) or all from it on (prefix)."""
    one, read = cached(kind), []
    hook = one.net.model.base_model.embeddings.register_forward_hook(lambda _, __, out: read.append(out.shape[1]))
    sampler = Blocks(Confidence(steps=2), size=S, stop=False)
    try:
        calls = sum(int(info.calls[0]) for _, info in run(sampler, one, prompted(1, 6), Stream.of(1, 1)))
    finally:
        hook.remove()
    assert calls == 4
    assert read == [L, inside[0], L, inside[1]]


@dataclass(frozen=True)
class Forgetful(ApproximateCache):
    """A twin with a bug: the states of a row are never read anew."""

    def _stale(self, tokens, at, rows, upto):
        return super()._stale(tokens, at, rows, upto) & (self.held.first[rows] < 0)


@kinds
def test_a_cache_that_does_not_follow_the_blocks_is_caught(kind):
    """The check of a block's beginning, with and without the bug."""
    for twin, off in ((ApproximateCache, False), (Forgetful, True)):
        one, tokens = twin(net(), ALPHABET, S, kind), canvas()
        one.given(tokens, full(2, S))(tokens, block(tokens, S, 2 * S))
        now = filled(tokens, list(range(S, 2 * S)))
        at = block(now, 2 * S, 3 * S)
        found = one.given(now, full(2, 2 * S))(now, at)
        assert (float(distance(found, plain()(now, at)).max()) > 1e-3) is off


# ---- what it says of itself, and to whom it says no ------------------------------------------------------------------


def test_no_sampler_keeps_its_promise():
    """The law is heuristic, whatever lies around the cache; others keep what they promise."""
    assert ApproximateCache.law is Law.HEURISTIC
    assert describe("remask.nets.approximate_cache:ApproximateCache").law == "heuristic"  # what a table shows
    one = cached()
    for conditional in (
        one,
        Temperature(one, 0.5),
        Temperature(Temperature(one.given(canvas(), full(2, S)), 2.0), 0.5),
    ):
        assert promised(Law.EXACT, conditional) is Law.HEURISTIC
    assert promised(Law.LIMIT, Mixture((plain(), one), (0.5, 0.5))) is Law.HEURISTIC
    for law in Law:
        assert promised(law, Temperature(plain(), 0.5)) is law


@pytest.mark.parametrize(
    ("other", "words"),
    [("bert", "'bert'"), ("modernbert", "sliding windows"), ("modernbert-decoder", "'modernbert-decoder'")],
)
def test_nets_that_it_would_be_wrong_for(other, words):
    with pytest.raises(BadInput, match=words):
        ApproximateCache(make(other), ALPHABET)


def test_a_net_of_blocks_has_an_exact_one():
    with pytest.raises(BadInput, match="--cache exact"):
        ApproximateCache(in_blocks(copy.deepcopy(make("remask-modernbert")), S), ALPHABET)
    assert need_plain(net()) is net()


def test_bad_sizes_and_kinds():
    with pytest.raises(BadInput, match="0 cells"):
        cached(size=0)
    with pytest.raises(UnknownName, match="prefix"):
        cached("prefixed")
