"""Gibbs sampling: exact with an exact refill, wrong for ever with a product draw; blocks, moves, calls."""

import math
from dataclasses import dataclass

import pytest
import torch

from remask.core.canvas import Canvas, blank, infill
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting
from remask.samplers.gibbs import Gibbs, anywhere, neighbours
from tests.conformance import check_law, mixed_canvas
from tests.oracle import LAWS, Watched, frequencies, noise_floor, total_variation
from tests.samplers.chains import clique, marginals, mask_then_independent, stationary

ONE_STEP = Ancestral(steps=1)  # a product draw


def draws(sampler, oracle, rows, seed=0):
    return sample(sampler, oracle, blank(rows, oracle.length, oracle.alphabet), Stream.of(seed, rows)).tokens


@pytest.mark.parametrize(("coupling", "distance"), [(0.1, 0.034), (0.25, 0.048), (0.5, 0.011)])
def test_the_law_that_product_draws_tend_to_is_known(coupling, distance):
    """Six spins on a clique, blocks of three: the stationary law's distance from the truth, by enumeration."""
    oracle = clique(6, coupling, 0.05)
    found = total_variation(stationary(mask_then_independent(oracle, 3)), oracle.joint)
    assert found == pytest.approx(distance, abs=6e-4)


@pytest.mark.parametrize("moves", [0, 1, 4, pytest.param(24, marks=pytest.mark.slow)])
def test_a_product_draw_has_the_law_of_its_own_chain_after_any_number_of_moves(moves):
    oracle, rows = clique(4, 0.4, 0.1), 20_000
    matrix = mask_then_independent(oracle, 3)
    law = marginals(oracle) @ torch.linalg.matrix_power(matrix, moves)
    found = frequencies(oracle, draws(Gibbs(inner=ONE_STEP, size=3, moves=moves), oracle, rows))
    floor = noise_floor(law, rows)
    assert total_variation(found, law) < floor.mean + 4 * floor.sd
    assert total_variation(found, oracle.joint) > floor.mean + 10 * floor.sd, "and it is not the truth"


@pytest.mark.slow
@pytest.mark.parametrize("law", ["copy_pairs", "parity", "ring_ising"])
def test_the_wrong_law_does_not_go_away_with_more_moves(law):
    oracle, rows = LAWS[law], 4_000
    floor = noise_floor(oracle.joint, rows)
    for moves in (4, 64):
        sampler = Gibbs(inner=ONE_STEP, size=3, moves=moves)
        assert total_variation(frequencies(oracle, draws(sampler, oracle, rows)), oracle.joint) > 1.5 * floor.mean


@pytest.mark.slow
def test_an_exact_refill_repairs_a_wrong_start():
    """From a draft of one and the same state, blocks of all cells need one move; single cells tend to the law."""
    oracle, rows = clique(4, 0.2, 0.1), 10_000
    draft = Canvas(oracle.states[:1].expand(rows, -1).clone(), torch.zeros(rows, 4, dtype=torch.bool))
    floor = noise_floor(oracle.joint, rows)
    for sampler in (Gibbs(size=4, moves=1), Gibbs(size=1, moves=120)):
        found = frequencies(oracle, sample(sampler, oracle, draft, Stream.of(1, rows)).tokens)
        assert total_variation(found, oracle.joint) < floor.mean + 4 * floor.sd
    few = frequencies(oracle, sample(Gibbs(size=1, moves=3), oracle, draft, Stream.of(1, rows)).tokens)
    assert total_variation(few, oracle.joint) > 0.3, "three moves of one cell cannot have forgotten the draft"


@pytest.mark.parametrize("consecutive", [False, True])
def test_the_law_is_kept_whatever_the_blocks(consecutive):
    check_law(Gibbs(size=2, moves=5, consecutive=consecutive), LAWS["random_table"])
    check_law(Gibbs(inner=Gibbs(size=2, moves=1), size=3, moves=2, consecutive=consecutive), LAWS["markov_chain"])


@pytest.mark.parametrize("size", [1, 3, 9])
def test_calls_are_those_of_the_filling_and_of_every_refill(size):
    oracle, moves = LAWS["ring_ising"], 4
    canvas = mixed_canvas(oracle, 60, 3)
    watched = Watched(oracle, 60)
    list(run(Gibbs(size=size, moves=moves), watched, canvas, Stream.of(0, 60)))
    unknown = canvas.unknown.sum(1)
    assert torch.equal(watched.ledger.calls, unknown + moves * unknown.clamp(max=size))


def test_a_move_masks_its_block_and_nothing_else():
    oracle = LAWS["independent"]
    canvas = mixed_canvas(oracle, 200, 1)
    last, seen = canvas.tokens, 0
    for state, info in run(Gibbs(size=2, moves=3), oracle, canvas, Stream.of(0, 200)):
        fresh = (state.tokens == oracle.alphabet.mask) & (last != oracle.alphabet.mask)
        assert not (fresh & canvas.frozen).any()
        assert (fresh.sum(1) <= 1).all(), "of two cells masked again one is refilled in the same step"
        assert not (fresh & ~info.changed).any()
        last, seen = state.tokens, seen + int(fresh.sum())
    assert seen > 100


def test_a_draft_is_kept_until_its_moves():
    oracle = LAWS["markov_chain"]
    tokens = oracle.sample(50, 0)
    draft = Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    assert torch.equal(sample(Gibbs(moves=0), oracle, draft, Stream.of(0, 50)).tokens, tokens)
    one = sample(Gibbs(size=1, moves=1), oracle, draft, Stream.of(0, 50)).tokens
    assert ((one != tokens).sum(1) <= 1).all()
    assert (one != tokens).any()


def test_blocks_are_uniform():
    """Every subset of three unknown cells equally often; every run of two neighbours, given cells stepped over."""
    rows = 12_000
    uniform = Stream.of(0, rows).uniform(0, 1, 6)
    unknown = torch.tensor([True, True, False, True, True, True]).expand(rows, -1)
    for choose, size, kinds in ((anywhere, 3, 10), (neighbours, 2, 4)):
        chosen = choose(uniform, unknown, size)
        assert (chosen.sum(1) == size).all()
        assert not (chosen & ~unknown).any()
        counts = torch.unique(chosen, dim=0, return_counts=True)[1].double()
        assert len(counts) == kinds
        chi = float(((counts - rows / kinds) ** 2 / (rows / kinds)).sum())
        assert chi - (kinds - 1) < 4 * math.sqrt(2 * (kinds - 1))
    assert torch.equal(neighbours(uniform, unknown, 9), unknown), "a block longer than the row is the row"


def test_inner_runs_do_not_share_uniforms():
    """The planted bug: every move with the stream of the first one draws the same tokens again and again."""

    @dataclass(frozen=True)
    class OneChild(FirstHitting):
        def init(self, stream, canvas, conditional):
            return super().init(Stream.of(0, len(canvas.tokens)), canvas, conditional)

        def step(self, stream, state, conditional):
            return super().step(Stream.of(0, len(state.tokens)), state, conditional)

    oracle = clique(4, 0.2, 0.1)
    rows = 64
    canvas = blank(rows, 4, oracle.alphabet)
    again = sample(Gibbs(inner=OneChild(), size=4, moves=1), oracle, canvas, Stream.of(0, rows)).tokens
    assert torch.equal(again, sample(OneChild(), oracle, canvas, Stream.of(0, rows)).tokens)
    fresh = sample(Gibbs(size=4, moves=1), oracle, canvas, Stream.of(0, rows)).tokens
    assert (fresh != sample(FirstHitting(), oracle, canvas, Stream.of(0, rows).child(0)).tokens).any(1).sum() > rows / 2


def test_it_promises_what_the_sampler_inside_promises():
    assert Gibbs().law is Law.EXACT
    assert Gibbs(inner=Ancestral()).law is Law.LIMIT


def test_an_empty_prompt_of_masks_only_is_filled_like_by_the_sampler_inside():
    oracle = LAWS["random_table"]
    canvas = infill(torch.full((20, 4), oracle.alphabet.mask), oracle.alphabet)
    plain = sample(FirstHitting(), oracle, canvas, Stream.of(5, 20).child(0)).tokens
    assert torch.equal(sample(Gibbs(moves=0), oracle, canvas, Stream.of(5, 20)).tokens, plain)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": -1}, {"moves": -1}, {"moves": 10**7}])
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput, match="type --"):
        Gibbs(**wrong)
