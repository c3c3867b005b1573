"""Mask-Predict: how many cells are masked again, which ones, and what stays stale; against loops written anew."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from remask.cli.flags import describe
from remask.core.canvas import Canvas, blank, infill
from remask.core.conditional import Visible
from remask.core.draw import Categorical, Greedy
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.confidence import Confidence
from remask.samplers.mask_predict import MaskPredict
from tests import conformance
from tests.conformance import SAMPLER_CHECKS, mixed_canvas
from tests.oracle import LAWS, Oracle, Watched
from tests.samplers.enumeration import coins
from tests.samplers.test_first_hitting import SeesAll
from tests.samplers.test_sundae import EvenSum


def as_visible(oracle, visible):
    """The same law with another answer at cells that are not masked."""
    joint = oracle.joint.view([oracle.symbols] * oracle.length)
    return Oracle(oracle.name, joint, oracle.alphabet.mask, oracle.alphabet.end, visible)


def unseen(oracle):
    """The cell's own token is left out."""
    return as_visible(oracle, Visible.LEAVE_ONE_OUT)


every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)


def passes(sampler, oracle, canvas, seed=0):
    """All (State, Info) of a run."""
    return list(run(sampler, oracle, canvas, Stream.of(seed, len(canvas.tokens))))


# ---- how many and which ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "steps", "counts"),
    [
        (10, 4, [10, 7, 5, 2]),  # floor of 10, 7.5, 5, 2.5: the published schedule
        (10, 10, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (10, 5, [10, 8, 6, 4, 2]),  # 10 * (1 - 4/5) is 1.9999999999999996 in floating point
        (3, 10, [3, 2, 2, 2, 1, 1, 1, 1, 1, 1]),  # at least one
        (1, 3, [1, 1, 1]),
        (4, 1, [4]),
    ],
)
def test_the_published_schedule(cells, steps, counts):
    """Cells are independent, so that no probability ever changes: the n_t least probable are predicted again."""
    tops = [0.61, 0.93, 0.55, 0.99, 0.72, 0.87, 0.52, 0.78, 0.96, 0.66][:cells]
    oracle = coins(*tops)
    found = passes(MaskPredict(steps), oracle, blank(1, cells, oracle.alphabet))
    assert [int(info.changed.sum()) for _, info in found] == counts
    order = sorted(range(cells), key=lambda cell: tops[cell])
    for state, info in found:
        count = int(info.changed.sum())
        assert torch.nonzero(info.changed[0])[:, 0].tolist() == sorted(order[:count]), "predicted again, if unchanged"
        torch.testing.assert_close(state.confidence[0], torch.tensor(tops, dtype=torch.float64).log())


def test_of_equal_cells_the_first_are_masked():
    oracle = coins(0.75, 0.75, 0.75, 0.75)  # powers of two: the ties are exact
    found = passes(MaskPredict(4), oracle, blank(1, 4, oracle.alphabet))
    assert [info.changed[0].tolist() for _, info in found] == [[i < n for i in range(4)] for n in (4, 3, 2, 1)]


def test_a_mixture_is_mended():
    """Modes of the marginals, 0 and 1, never occur together; the less certain one gives way to the other.

    p(0,0) = 0.30, p(0,2) = 0.25, p(1,1) = 0.25, p(2,1) = 0.20: the first cell is 0 with 0.55, the second 1 with 0.45.
    """
    joint = torch.zeros(3, 3, dtype=torch.float64)
    joint[0, 0], joint[0, 2], joint[1, 1], joint[2, 1] = 0.30, 0.25, 0.25, 0.20
    oracle = Oracle("two readings", joint, 3, 4)
    found = passes(MaskPredict(2), oracle, blank(1, 2, oracle.alphabet))
    (first, told), (second, again) = found
    assert (first.tokens.tolist(), second.tokens.tolist()) == ([[0, 1]], [[0, 0]])
    assert (told.changed.tolist(), again.changed.tolist()) == ([[True, True]], [[False, True]])
    assert first.confidence[0].exp().tolist() == pytest.approx([0.55, 0.45])
    assert second.confidence[0].exp().tolist() == pytest.approx([0.55, 0.30 / 0.55])
    assert again.log_prob[0].exp().tolist() == pytest.approx([1, 0.30 / 0.55])
    assert sample(MaskPredict(1), oracle, blank(1, 2, oracle.alphabet), Stream.of(0, 1)).tokens.tolist() == [[0, 1]]


# ---- an independent implementation -----------------------------------------------------------------------------------


def repeated(tokens, unknown, alphabet):
    """The open cells of a row, a list, that say what their left neighbour says."""
    silent = alphabet.special | {alphabet.mask}
    return [i for i in range(1, len(tokens)) if unknown[i] and tokens[i] == tokens[i - 1] and tokens[i] not in silent]


def by_hand(oracle, tokens, unknown, steps, fresh=False, remove_stutter=False):
    """One row by loops over Python lists: [(tokens, confidences of unknown cells, cells predicted)] of every pass."""
    tokens, cells = list(tokens), [i for i, open_cell in enumerate(unknown) if open_cell]
    sure = dict.fromkeys(cells, -math.inf)
    told, deleted = [], []
    for t in range(steps if cells else 0):
        worst = max(1, len(cells) * (steps - t) // steps)
        again = sorted(cells, key=lambda cell: (sure[cell], cell))[:worst]
        again += [c for c in repeated(tokens, unknown, oracle.alphabet) if remove_stutter and c not in again]
        for cell in again:
            tokens[cell] = oracle.alphabet.mask
        answer = oracle(torch.tensor([tokens]))[0]
        for cell in again:
            tokens[cell] = int(answer[cell].argmax())
        for cell in cells if fresh else again:
            sure[cell] = float(answer[cell, tokens[cell]])
        for cell in repeated(tokens, unknown, oracle.alphabet) if remove_stutter and t + 1 == steps else []:
            sure[cell], again = 0.0, [*{*again, cell}]
            deleted = [*deleted, cell]
        for cell in deleted:
            tokens[cell] = oracle.alphabet.pad
        told.append((list(tokens), dict(sure), again))
    return told


def same_as_by_hand(sampler, oracle, canvas):
    """Compares every pass of every row, and returns how many passes there were."""
    found, seen = passes(sampler, oracle, canvas), 0
    for row, (tokens, unknown) in enumerate(zip(canvas.tokens.tolist(), canvas.unknown.tolist())):
        hand = by_hand(oracle, tokens, unknown, sampler.steps, sampler.fresh, sampler.remove_stutter)
        for (state, info), (wanted, sure, again) in zip(found, hand):
            seen += 1
            assert state.tokens[row].tolist() == wanted
            assert torch.nonzero(info.changed[row])[:, 0].tolist() == sorted(again)
            cells = sorted(sure)
            confidence = torch.tensor([sure[cell] for cell in cells], dtype=torch.float64)
            torch.testing.assert_close(state.confidence[row, cells], confidence, rtol=0, atol=1e-12)
    return seen


@pytest.mark.parametrize("fresh", [False, True], ids=["stale", "fresh"])
@every_law
def test_every_pass_is_the_one_that_loops_find(oracle, fresh):
    for law in (oracle, unseen(oracle)):
        canvas = mixed_canvas(law, 24, 2)
        assert same_as_by_hand(MaskPredict(7, fresh), law, canvas) == 7 * int(canvas.unknown.any(1).sum())


def stuttering(visible):
    """A law whose most probable tokens repeat each other, and whose end id is a blank."""
    oracle = as_visible(LAWS["random_table"], visible)
    oracle.alphabet = oracle.alphabet._replace(pad=oracle.alphabet.end)
    return oracle


@pytest.mark.parametrize("fresh", [False, True], ids=["stale", "fresh"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_without_stutters_every_pass_is_the_one_that_loops_find(steps, fresh):
    law = stuttering(Visible.LEAVE_ONE_OUT)
    canvas = mixed_canvas(law, 60, 2)
    clean, plain = (MaskPredict(steps, fresh, remove_stutter=removed) for removed in (True, False))
    assert same_as_by_hand(clean, law, canvas) == steps * int(canvas.unknown.any(1).sum())
    before, after = (passes(sampler, law, canvas)[-1][0].tokens for sampler in (plain, clean))
    rows = list(zip(after.tolist(), canvas.unknown.tolist()))
    assert not any(repeated(*row, law.alphabet) for row in rows)
    assert any(repeated(*row, law.alphabet) for row in zip(before.tolist(), canvas.unknown.tolist()))


def test_an_alphabet_without_a_blank_keeps_the_last_stutter():
    law = unseen(LAWS["random_table"])
    assert law.alphabet.pad is None
    canvas = mixed_canvas(law, 60, 2)
    once, clean = (passes(MaskPredict(1, remove_stutter=removed), law, canvas)[-1] for removed in (False, True))
    assert torch.equal(once[0].tokens, clean[0].tokens)
    assert torch.equal(once[1].log_prob, clean[1].log_prob)


def test_deleting_breaks_a_pattern():
    with pytest.raises(BadInput, match="type --no-remove-stutter"):
        MaskPredict(remove_stutter=True, draw=EvenSum())


def test_stale_and_fresh_weights_part_ways():
    """On a dependent law; so that each of the two is seen to be itself."""
    oracle = unseen(LAWS["random_table"])
    canvas = mixed_canvas(oracle, 60, 2)
    stale, fresh = (passes(MaskPredict(7, fresh), oracle, canvas) for fresh in (False, True))
    assert any(not torch.equal(a.changed, b.changed) for (_, a), (_, b) in zip(stale, fresh))


# ---- fresh weights ---------------------------------------------------------------------------------------------------


def test_where_cells_are_independent_fresh_weights_are_the_old_ones():
    oracle = unseen(coins(0.6, 0.9, 0.8, 0.7))
    canvas = mixed_canvas(oracle, 40, 0)
    for (a, told), (b, again) in zip(*(passes(MaskPredict(5, fresh), oracle, canvas) for fresh in (False, True))):
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(told.changed, again.changed)
        torch.testing.assert_close(a.confidence, b.confidence, rtol=0, atol=1e-12)


def test_a_net_that_sees_the_token_is_sure_of_it():
    """DENOISE: p of the token in place is 1 for exact conditionals, so only what was just predicted looks doubtful."""
    oracle = LAWS["ring_ising"]
    canvas = blank(1, 5, oracle.alphabet)
    for state, info in passes(MaskPredict(5, fresh=True), oracle, canvas):
        assert torch.equal(state.confidence < 0, info.changed)


def test_fresh_weights_need_a_net_that_answers():
    oracle = as_visible(LAWS["ring_ising"], Visible.NONE)
    canvas = blank(2, 5, oracle.alphabet)
    with pytest.raises(BadInput, match="type --no-fresh"):
        sample(MaskPredict(fresh=True), oracle, canvas, Stream.of(0, 2))
    assert sample(MaskPredict(), oracle, canvas, Stream.of(0, 2)).tokens.shape == (2, 5)


# ---- calls, given cells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True], ids=["stale", "fresh"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_every_row_with_something_unknown_costs_exactly_the_steps(steps, fresh):
    oracle = LAWS["markov_chain"]
    canvas, watched = mixed_canvas(oracle, 60, 1), Watched(oracle, 60)
    sample(MaskPredict(steps, fresh), watched, canvas, Stream.of(0, 60))
    assert torch.equal(watched.ledger.calls, canvas.unknown.any(1) * steps)


def test_unknown_cells_that_hold_a_token_are_masked_first():
    oracle = LAWS["random_table"]
    frozen = torch.rand(30, 4, generator=torch.Generator().manual_seed(3)) < 0.4
    tokens = oracle.sample(30, 0)
    held, masks = Canvas(tokens, frozen), Canvas(torch.where(frozen, tokens, oracle.alphabet.mask), frozen)
    for (a, told), (b, again) in zip(passes(MaskPredict(4), oracle, held), passes(MaskPredict(4), oracle, masks)):
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(told.changed, again.changed)
    assert torch.equal(passes(MaskPredict(4), oracle, held)[0][1].changed, ~frozen)


def test_given_cells_do_not_count():
    """Six of ten cells are unknown: 6, 4 and 2 of them in three steps; given ones are neither masked nor weighed."""
    oracle = coins(*([0.8] * 10))
    tokens = torch.full((1, 10), oracle.alphabet.mask)
    tokens[0, [0, 3, 4, 9]] = int(oracle.ids[1])  # the improbable symbol
    found = passes(MaskPredict(3), oracle, infill(tokens, oracle.alphabet))
    assert [int(info.changed.sum()) for _, info in found] == [6, 4, 2]
    state = found[-1][0]
    assert torch.equal(state.tokens[0, [0, 3, 4, 9]], tokens[0, [0, 3, 4, 9]])
    assert not state.confidence[0, [0, 3, 4, 9]].any()


@pytest.mark.parametrize("fresh", [False, True], ids=["stale", "fresh"])
def test_a_joint_draw_sees_the_masked_cells_and_only_those(fresh):
    """Kept tokens are weighed, not drawn: a constraint must take them as they stand."""
    oracle = LAWS["ring_ising"]
    draw, canvas, stream = SeesAll(), blank(20, 5, oracle.alphabet), Stream.of(2, 20)
    joint = sample(MaskPredict(4, fresh, draw), oracle, canvas, stream)
    assert [told.unique().tolist() for told in draw.told] == [[5], [3], [2], [1]]
    assert torch.equal(joint.tokens, sample(MaskPredict(4, fresh, Categorical()), oracle, canvas, stream).tokens)


# ---- relations -------------------------------------------------------------------------------------------------------


@every_law
def test_one_step_is_one_pass(oracle):
    canvas, stream = mixed_canvas(oracle, 100, 3), Stream.of(4, 100)

    def same(one, other):
        return torch.equal(sample(one, oracle, canvas, stream).tokens, sample(other, oracle, canvas, stream).tokens)

    assert same(MaskPredict(1), Confidence(1, draw=Greedy()))
    assert same(MaskPredict(1, draw=Categorical()), Ancestral(1))


@every_law
def test_one_greedy_cell_at_a_time_never_makes_a_row_less_probable(oracle):
    """Passes with n_t = 1 climb p(x) coordinate by coordinate."""
    canvas, climbed = mixed_canvas(oracle, 60, 5), 0
    found = passes(MaskPredict(40), oracle, canvas)
    for (before, _), (after, info) in pairwise(found):
        alone = info.changed.sum(1) == 1
        old, new = (oracle.joint[oracle.number(state.tokens[alone])] for state in (before, after))
        assert (new >= old - 1e-15).all()
        climbed += int((new > old + 1e-15).sum())
    if oracle.name == "copy_pairs":
        assert climbed == 0, "the modes of a pair agree already"


def test_special_tokens_never_win():
    """Their log p is -inf: no argmax finds them, even next to symbols of probability zero."""
    joint = torch.zeros(2, 2, dtype=torch.float64)
    joint[1, 1] = 1.0
    oracle = Oracle("certain", joint, 0, 1)
    for fresh in (False, True):
        tokens = sample(MaskPredict(5, fresh), oracle, blank(3, 2, oracle.alphabet), Stream.of(0, 3)).tokens
        assert (tokens == oracle.ids[1]).all()


def test_it_promises_nothing():
    assert MaskPredict().law is MaskPredict(draw=Categorical()).law is Law.HEURISTIC
    row = describe("remask.samplers.mask_predict:MaskPredict")
    assert (row.law, row.source) == ("heuristic", "Ghazvininejad et al. 2019, arXiv 1904.09324, section 3")


# ---- planted bugs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlwaysFresh(MaskPredict):
    """Weighs kept tokens anew although it was not asked to."""

    def step(self, stream, state, conditional):
        return MaskPredict(self.steps, True, self.draw).step(stream, state, conditional)


@dataclass(frozen=True)
class MasksTheSurest(MaskPredict):
    def step(self, stream, state, conditional):
        after, info = super().step(stream, state._replace(confidence=-state.confidence), conditional)
        return after._replace(confidence=torch.where(info.changed, after.confidence, state.confidence)), info


@dataclass(frozen=True)
class OneMore(MaskPredict):
    """Counts its steps from one."""

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state._replace(step=(state.step - 1).clamp(min=0)), conditional)
        return after._replace(step=state.step + 1, done=state.step + 1 >= self.steps), info


@dataclass(frozen=True)
class DeletesOnly(MaskPredict):
    """Never masks a stutter again, and deletes what is left of them."""

    def step(self, stream, state, conditional):
        last = bool((state.step + 1 >= self.steps).all())
        return MaskPredict(self.steps, self.fresh, self.draw, last and self.remove_stutter).step(
            stream, state, conditional
        )


def test_deleting_stutters_only_is_another_sampler():
    law = stuttering(Visible.LEAVE_ONE_OUT)
    with pytest.raises(AssertionError):
        same_as_by_hand(DeletesOnly(5, remove_stutter=True), law, mixed_canvas(law, 60, 2))


@pytest.mark.parametrize("twin", [AlwaysFresh, MasksTheSurest, OneMore])
def test_wrong_twins_part_from_the_loops(twin):
    oracle = unseen(LAWS["random_table"])
    with pytest.raises(AssertionError):
        same_as_by_hand(twin(7), oracle, mixed_canvas(oracle, 60, 2))


@dataclass(frozen=True)
class ForgetsWhatIsGiven(MaskPredict):
    """Masks the least certain cells of the row, given or not."""

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state._replace(frozen=torch.zeros_like(state.frozen)), conditional)
        return after._replace(frozen=state.frozen), info


def test_a_masked_given_cell_is_caught():
    with pytest.raises(AssertionError, match="a frozen cell"):
        conformance.check_frozen(ForgetsWhatIsGiven(4), LAWS["random_table"])


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "sampler",
    [MaskPredict(4, fresh=True), MaskPredict(3, draw=Categorical()), MaskPredict(4, remove_stutter=True)],
    ids=["fresh", "categorical", "stutters"],
)
def test_contract_of_the_variants(sampler, check):
    check(sampler, unseen(LAWS["markov_chain"]))


@pytest.mark.parametrize("steps", [0, -3, 1_000_001, math.nan])
def test_fields_that_make_no_sense(steps):
    with pytest.raises(BadInput, match="type --steps "):
        MaskPredict(steps)
