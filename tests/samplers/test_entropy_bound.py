"""Entropy bound: which prefix opens, what a step may cost by theory, and what it does cost by enumeration."""

import math
from dataclasses import dataclass
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.cli.flags import describe
from remask.core.canvas import blank
from remask.core.certainty import entropy
from remask.core.draw import Greedy
from remask.core.errors import BadInput
from remask.core.refill import commit, propose
from remask.core.sampler import Law, masked, run, sample
from remask.core.stream import Stream
from remask.samplers.confidence import Confidence
from remask.samplers.entropy_bound import EntropyBound, within
from tests import conformance
from tests.conformance import SAMPLER_CHECKS, mixed_canvas
from tests.oracle import LAWS, Oracle, Watched, copy_pairs
from tests.samplers.enumeration import (
    AGREE,
    BLIND,
    PAIR,
    A,
    B,
    C,
    broken,
    by_itself,
    coins,
    divergence,
    enumerated,
    openings,
    total_correlation,
)
from tests.samplers.test_first_hitting import SeesAll

every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)

# ---- which cells -----------------------------------------------------------------------------------------------------

FIVE = (0.9, 0.99, 0.6, 0.98, 0.95)  # entropies 0.325, 0.056, 0.673, 0.098, 0.199


@pytest.mark.parametrize(
    ("gamma", "opened"),
    [
        (0.0, [[1], [3], [4], [0], [2]]),
        (0.05, [[1], [3], [4], [0], [2]]),
        (0.06, [[1, 3], [4], [0], [2]]),  # 0.056 fits; then 0.199, 0.325 and 0.673, no two of which do
        (0.16, [[1, 3, 4], [0], [2]]),  # 0.056 + 0.098 = 0.154
        (0.20, [[1, 3, 4], [0], [2]]),  # 0.056 + 0.098 + 0.199 = 0.353; and 0.325 alone is too much for two
        (0.36, [[0, 1, 3, 4], [2]]),
        (0.68, [[0, 1, 2, 3, 4]]),  # all but the largest: 0.678
        (math.inf, [[0, 1, 2, 3, 4]]),
    ],
)
def test_the_largest_prefix_within_the_bound(gamma, opened):
    assert openings(EntropyBound(gamma), coins(*FIVE)) == opened


@pytest.mark.parametrize(
    ("score", "opened"),
    [  # A 0.879 nats, B 1.242, C 0.791: sorted otherwise, the same bound opens other cells
        ("entropy", [[0, 2], [1]]),  # C, A: 0.791
        ("top_probability", [[0], [1, 2]]),  # A, B: 0.879 is too much; then B, C: 0.791
        ("margin", [[1], [0, 2]]),  # B, A: 0.879 is too much; then A, C: 0.791
    ],
)
def test_the_score_sorts_and_the_entropy_bounds(score, opened):
    assert openings(EntropyBound(0.8, score), by_itself(A, B, C)) == opened


def test_equal_cells_open_from_left_to_right():
    oracle = coins(0.75, 0.75, 0.75)  # powers of two: the ties are exact
    assert openings(EntropyBound(0.0), oracle) == [[0], [1], [2]]
    nats = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert openings(EntropyBound(1.001 * nats), oracle) == [[0, 1], [2]]


def test_certain_cells_open_along_with_an_uncertain_one():
    """The first uncertain cell is the maximum that is subtracted; a second one would not be."""
    oracle = by_itself([1.0, 0.0], [0.6, 0.4], [0.0, 1.0], [0.7, 0.3])
    for score in BLIND:
        assert openings(EntropyBound(0.0, score), oracle) == [[0, 2, 3], [1]]


@settings(deadline=None, database=None, max_examples=100)
@given(st.integers(1, 7), st.integers(1, 4), st.floats(0, 3), st.integers(0, 2**31), st.booleans())
def test_within_is_the_largest_prefix(length, rows, gamma, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(rows, length, generator=generator, dtype=torch.float64)
    score = score.mul(3).floor() if ties else score
    nats = torch.rand(rows, length, generator=generator, dtype=torch.float64)
    among = torch.rand(rows, length, generator=generator) < 0.7
    found = within(score, nats, among, gamma)
    for row in range(rows):
        cells = sorted((c for c in range(length) if among[row, c]), key=lambda c: -float(score[row, c]))
        sizes = [0]
        for size in range(1, len(cells) + 1):
            values = [float(nats[row, c]) for c in cells[:size]]
            if math.fsum(values) - max(values) <= gamma + 1e-12:
                sizes.append(size)
        assert sorted(cells[: max(sizes)]) == torch.nonzero(found[row])[:, 0].tolist()


GAMMAS = (0.02, 0.1, 0.5, 1.2)

# ---- the bound -------------------------------------------------------------------------------------------------------


@every_law
def test_the_total_correlation_is_at_most_the_sum_less_the_maximum(oracle):
    """For every set of cells in every context that can occur: the inequality that the sampler rests on."""
    tight = 0
    for context in product([oracle.alphabet.mask, *oracle.ids.tolist()], repeat=oracle.length):
        row = torch.tensor(context)
        if not ((oracle.states == row) | (row == oracle.alphabet.mask)).all(1).logical_and(oracle.joint > 0).any():
            continue
        prob = oracle(row[None])[0].exp()
        nats = (-torch.xlogy(prob, prob).sum(1)).tolist()
        cells = [cell for cell, token in enumerate(context) if token == oracle.alphabet.mask]
        for size in (2, 3, len(cells)):
            for chosen in combinations(cells, size):
                error = total_correlation(oracle, context, chosen)
                bound = math.fsum(nats[c] for c in chosen) - max((nats[c] for c in chosen), default=0.0)
                assert -1e-12 < error <= bound + 1e-12
                tight += bool(error > 0.1 and error > bound - 1e-12)
    assert (tight > 0) == (oracle.name in ("copy_pairs", "parity")), "equality where the largest decides the others"


def check_bound(sampler, oracle):
    """KL(p || q) by enumeration: the sum of what the steps ignore, each within gamma; returned."""
    law, ignored = enumerated(sampler, oracle)
    assert divergence(oracle.joint, law) == pytest.approx(ignored, abs=1e-12)
    opened = run(sampler, oracle, blank(500, oracle.length, oracle.alphabet), Stream.of(0, 500))
    together = sum((info.changed.sum(1) > 1).any().item() for _, info in opened)
    assert ignored <= sampler.gamma * together + 1e-12, f"{ignored:.4f} nats in {together} steps"
    return ignored


@every_law
@pytest.mark.parametrize("score", BLIND)
def test_the_whole_canvas_costs_at_most_gamma_a_step(oracle, score):
    costs = [check_bound(EntropyBound(gamma, score), oracle) for gamma in GAMMAS]
    assert oracle.name == "independent" or max(costs) > 0.01


@every_law
@pytest.mark.parametrize("score", BLIND)
def test_gamma_zero_is_exact_by_enumeration(oracle, score):
    law, ignored = enumerated(EntropyBound(0.0, score), oracle)
    torch.testing.assert_close(law, oracle.joint, rtol=0, atol=1e-12)
    assert ignored == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["copy_pairs", "parity", "random_table"])
def test_gamma_zero_is_exact_in_samples(name):
    conformance.check_law(EntropyBound(0.0), LAWS[name])


def test_gamma_zero_fills_in_exactly():
    conformance.check_infill(EntropyBound(0.0, "margin"), LAWS["random_table"])


def test_what_each_variant_promises():
    assert EntropyBound(0.0).law is EntropyBound(0.0, "margin").law is Law.EXACT
    for sampler in (EntropyBound(), EntropyBound(0.0, "drawn"), EntropyBound(0.0, draw=Greedy())):
        assert sampler.law is Law.HEURISTIC
    row = describe("remask.samplers.entropy_bound:EntropyBound")
    assert row.law == EntropyBound().law.value
    assert row.source.startswith("Ben-Hamu et al. 2025, arXiv 2505.24857")


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_a_pair_opens_together_from_gamma_equal_to_its_entropy_on(factor):
    """A copy is the tight case: H + H - H = H is the bound and the total correlation."""
    sampler = EntropyBound(factor * PAIR.entropy)
    share, calls = broken(sampler, PAIR)
    law, ignored = enumerated(sampler, PAIR)
    if factor < 1:
        assert (share, calls) == (0.0, [2])
        assert ignored == pytest.approx(0, abs=1e-12)
    else:
        assert calls == [1]
        assert abs(share - (1 - AGREE)) < 4 * math.sqrt(AGREE * (1 - AGREE) / 8000)
        assert ignored == pytest.approx(PAIR.entropy)
    intact = float(law[PAIR.states[:, 0] == PAIR.states[:, 1]].sum())
    assert intact == pytest.approx(1.0 if factor < 1 else AGREE)


# ---- calls, relations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, *GAMMAS, math.inf])
@every_law
def test_at_most_a_call_a_cell_and_fewer_with_more_gamma(oracle, gamma):
    canvas, watched = mixed_canvas(oracle, 60, 1), Watched(oracle, 60)
    sample(EntropyBound(gamma), watched, canvas, Stream.of(0, 60))
    unknown = canvas.unknown.sum(1)
    assert (watched.ledger.calls <= unknown).all()
    assert (watched.ledger.calls >= unknown.clamp(max=1)).all()
    if gamma == 0.0 and oracle.name not in ("copy_pairs", "parity"):
        assert torch.equal(watched.ledger.calls, unknown), "nothing is certain"
    if gamma == math.inf:
        assert torch.equal(watched.ledger.calls, unknown.clamp(max=1))


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_a_copy_costs_no_call_of_its_own(pairs):
    """The first of a pair opens; the next step opens its certain copy along with the first of the next pair."""
    oracle = copy_pairs(2 * pairs, 3, seed=1, mask=1, end=0)
    assert broken(EntropyBound(0.0), oracle, rows=50) == (0.0, [pairs + 1])


@every_law
def test_special_cases_are_the_same_canvases(oracle):
    canvas, stream = mixed_canvas(oracle, 200, 3), Stream.of(4, 200)

    def same(one, other):
        return torch.equal(sample(one, oracle, canvas, stream).tokens, sample(other, oracle, canvas, stream).tokens)

    assert same(EntropyBound(math.inf), Confidence(1)), "no bound is one pass"
    if oracle.name not in ("copy_pairs", "parity"):
        for score in ("entropy", "top_probability"):
            assert same(EntropyBound(0.0, score), Confidence(400, score)), "no slack is one cell a step"


def test_a_joint_draw_sees_every_masked_cell():
    oracle = LAWS["ring_ising"]
    draw, canvas, stream = SeesAll(), blank(20, 5, oracle.alphabet), Stream.of(2, 20)
    joint = sample(EntropyBound(0.0, draw=draw), oracle, canvas, stream)
    assert [told.unique().tolist() for told in draw.told] == [[5], [4], [3], [2], [1]]
    assert torch.equal(joint.tokens, sample(EntropyBound(0.0), oracle, canvas, stream).tokens)


# ---- planted bugs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellByCell(EntropyBound):
    """Bounds every cell by itself instead of what they add up to (and opens the best in any case)."""

    def choose(self, nats, cells):
        return within(-nats, nats, cells, 0.0) | (cells & (nats <= self.gamma))

    def step(self, stream, state, conditional):
        cells = masked(state, conditional)
        proposal = propose(self.draw, stream, state, conditional, cells)
        chosen = self.choose(proposal.spread(-entropy(proposal.log_prob), 0.0), cells)
        return commit(state, proposal, chosen, ~(cells & ~chosen).any(1))


@dataclass(frozen=True)
class OnAverage(CellByCell):
    """Divides by the number of cells."""

    def choose(self, nats, cells):
        return within(-nats, nats / cells.sum(1, keepdim=True), cells, self.gamma)


@dataclass(frozen=True)
class Unharmed(CellByCell):
    def choose(self, nats, cells):
        return within(-nats, nats, cells, self.gamma)


def test_wrong_bounds_are_caught():
    oracle, gamma = LAWS["copy_pairs"], 1.05 * PAIR.entropy
    assert check_bound(EntropyBound(gamma), oracle) == check_bound(Unharmed(gamma), oracle)
    for twin in (CellByCell(gamma), OnAverage(gamma)):
        with pytest.raises(AssertionError, match="nats in"):
            check_bound(twin, oracle)


@dataclass(frozen=True)
class Sold(EntropyBound):
    """Any variant, sold as exact."""

    law = Law.EXACT


@pytest.mark.parametrize(
    "twin",
    [Sold(0.0, "drawn"), Sold(1.2), Sold(0.0, draw=Greedy())],
    ids=["drawn", "gamma", "greedy"],
)
def test_variants_without_the_law_are_caught_if_they_claim_it(twin):
    with pytest.raises(AssertionError, match="total variation"):
        conformance.check_law(twin, LAWS["random_table"])


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("sampler", [EntropyBound(0.5, "margin"), EntropyBound(0.0, "drawn")], ids=["margin", "drawn"])
def test_contract_of_the_variants(sampler, check):
    check(sampler, LAWS["copy_pairs"])


def test_rounding_below_zero_still_opens_a_cell():
    """A float32 net may say log p = +1e-7 of a certain token: its entropy is then a little below zero."""

    class Rounded(Oracle):
        def __call__(self, tokens, at=None):
            return super().__call__(tokens, at).float() + 1e-7

    oracle = Rounded("rounded", LAWS["copy_pairs"].joint.view(3, 3, 3, 3), 1, 0)
    assert broken(EntropyBound(0.0), oracle, rows=50)[0] == 0.0


@pytest.mark.parametrize("wrong", [{"gamma": -0.1}, {"gamma": math.nan}, {"score": "surprise"}], ids=str)
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput, match=f"type --{next(iter(wrong))} "):
        EntropyBound(**wrong)
