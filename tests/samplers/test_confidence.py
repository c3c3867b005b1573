"""Confidence: which cells open, how many, what that does to the law; all by enumeration where it can be."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import permutations, product

import pytest
import torch

from remask.cli.flags import describe
from remask.core.canvas import Canvas, blank
from remask.core.certainty import CERTAINTIES
from remask.core.draw import Greedy, Nucleus
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample, start
from remask.core.stream import Purpose, Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.confidence import COUNTS, Confidence, gumbel
from tests import conformance
from tests.conformance import SAMPLER_CHECKS, mixed_canvas
from tests.oracle import LAWS, Oracle, Watched, frequencies, noise_floor, surprise, total_variation
from tests.samplers.enumeration import (
    AGREE,
    BLIND,
    PAIR,
    TOP,
    A,
    B,
    C,
    broken,
    by_itself,
    coins,
    divergence,
    enumerated,
    openings,
)
from tests.samplers.test_first_hitting import SeesAll

every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
MANY = 400  # steps, so that one cell opens in each


# ---- which cells, and how many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "counts"), [("equal", [3, 2, 3, 2]), ("cosine", [1, 2, 4, 3])])
def test_ten_cells_in_four_steps(schedule, counts):
    """Equal: 7, 5, 2, 0 stay masked; cosine: floor(10 cos(k pi / 8)) = 9, 7, 3, 0. The surest go first."""
    tops = [0.61, 0.93, 0.55, 0.99, 0.72, 0.87, 0.52, 0.78, 0.96, 0.66]
    opened = openings(Confidence(4, schedule=schedule), coins(*tops))
    assert [len(cells) for cells in opened] == counts
    order = sorted(range(10), key=lambda cell: -tops[cell])
    for cells in opened:
        assert cells == sorted(order[: len(cells)])
        order = order[len(cells) :]


@pytest.mark.parametrize(
    ("score", "order"), [("top_probability", [0, 1, 2]), ("margin", [1, 0, 2]), ("entropy", [2, 0, 1])]
)
@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_every_score_has_a_favourite(score, order, noise):
    assert openings(Confidence(3, score, noise=noise), by_itself(A, B, C)) == [[cell] for cell in order]


def test_equal_cells_open_from_left_to_right():
    for score in BLIND:  # powers of two: the ties are exact
        assert openings(Confidence(2, score), coins(0.75, 0.75, 0.75, 0.75)) == [[0, 1], [2, 3]]


def test_a_threshold_opens_what_passes_it_or_the_best():
    """0.95 and 0.97 pass; then nothing does, and the surest cell opens alone, until they are through."""
    cells = coins(0.6, 0.95, 0.7, 0.97)
    assert openings(Confidence(schedule="threshold"), cells) == [[1, 3], [2], [0]]
    assert openings(Confidence(schedule="threshold", threshold=0.65), cells) == [[1, 2, 3], [0]]
    # nothing passes: which cell opens alone is the score's to say
    assert openings(Confidence(score="entropy", schedule="threshold"), by_itself(A, B, C)) == [[2], [0], [1]]


# ---- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("schedule", COUNTS)
def test_counted_schedules_cost_the_smaller_of_steps_and_cells(schedule, steps):
    oracle = LAWS["ring_ising"]
    canvas, watched = mixed_canvas(oracle, 60, 1), Watched(oracle, 60)
    sample(Confidence(steps, schedule=schedule), watched, canvas, Stream.of(0, 60))
    assert torch.equal(watched.ledger.calls, canvas.unknown.sum(1).clamp(max=steps))


@pytest.mark.parametrize("threshold", [0.0, 0.7, 0.9, 1.0])
@every_law
def test_a_threshold_costs_at_most_a_call_a_cell_whatever_steps_says(oracle, threshold):
    canvas, watched = mixed_canvas(oracle, 60, 1), Watched(oracle, 60)
    sample(Confidence(1, schedule="threshold", threshold=threshold), watched, canvas, Stream.of(0, 60))
    calls, unknown = watched.ledger.calls, canvas.unknown.sum(1)
    assert (calls <= unknown).all()
    assert threshold > 0 or torch.equal(calls, unknown.clamp(max=1))
    assert threshold < 1 or torch.equal(calls, unknown)


def test_a_cell_that_came_with_a_token_stays_and_costs_nothing():
    oracle = LAWS["random_table"]
    tokens = oracle.sample(3, 0)
    open_cells = torch.tensor([[True, True, True, True], [True, True, False, False], [False, False, False, False]])
    canvas = Canvas(torch.where(open_cells, oracle.alphabet.mask, tokens), torch.zeros_like(open_cells))
    watched = Watched(oracle, 3)
    result = sample(Confidence(MANY), watched, canvas, Stream.of(0, 3)).tokens
    assert torch.equal(result[~open_cells], tokens[~open_cells])
    assert watched.ledger.calls.tolist() == [4, 2, 0]


def test_a_joint_draw_sees_every_masked_cell():
    oracle = LAWS["random_table"]
    draw, canvas, stream = SeesAll(), blank(20, 4, oracle.alphabet), Stream.of(2, 20)
    joint = sample(Confidence(2, draw=draw), oracle, canvas, stream)
    assert [told.unique().tolist() for told in draw.told] == [[4], [2]]
    assert torch.equal(joint.tokens, sample(Confidence(2), oracle, canvas, stream).tokens)


@dataclass(frozen=True)
class Stubborn:
    """A constraint that insists on one token, probable or not."""

    joint = True
    faithful = False

    def __call__(self, log_prob, uniform, at, tokens):
        return log_prob.new_full((len(log_prob),), 5).long()


@pytest.mark.parametrize("score", CERTAINTIES)
def test_a_token_of_probability_zero_does_not_stop_it(score):
    """Its score would be -inf, as that of a cell with two equally probable tokens is by margin."""
    oracle = by_itself([0.5, 0.5, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0])
    watched = Watched(oracle, 1)
    sampler = Confidence(2, score, draw=Stubborn())
    assert sample(sampler, watched, blank(1, 2, oracle.alphabet), Stream.of(0, 1)).tokens.tolist() == [[5, 5]]
    assert watched.ledger.calls.tolist() == [2]


# ---- the law: one cell a step, chosen blindly, is exact --------------------------------------------------------------


@every_law
@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("schedule", COUNTS)
@pytest.mark.parametrize("score", BLIND)
def test_one_cell_a_step_is_exact_whatever_the_order(oracle, score, schedule, noise):
    """The next cell is a function of what is visible, and of noise: the chain rule along every branch, to rounding."""
    law, ignored = enumerated(Confidence(oracle.length, score, schedule, noise=noise), oracle)
    torch.testing.assert_close(law, oracle.joint, rtol=0, atol=1e-12)
    assert ignored == 0


@every_law
@pytest.mark.parametrize("sampler", [Confidence(2, "margin"), Confidence(3, "entropy", "cosine"), Confidence(1)])
def test_cells_that_open_together_cost_their_total_correlation(oracle, sampler):
    """KL(p || q) is the expected sum of the total correlations that the steps ignore (chain rule), to rounding."""
    law, ignored = enumerated(sampler, oracle)
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert divergence(oracle.joint, law) == pytest.approx(ignored, abs=1e-12)
    assert (ignored > 0.01) == (oracle.name != "independent")


def chosen_by_the_draw(oracle):
    """The law [S] of `drawn` with a step for every cell: each step draws all masked cells and keeps the likeliest."""
    contexts = {(oracle.alphabet.mask,) * oracle.length: 1.0}
    for _ in range(oracle.length):
        following = defaultdict(float)
        for context, weight in contexts.items():
            prob = oracle(torch.tensor([context]))[0].exp().tolist()
            cells = [cell for cell, token in enumerate(context) if token == oracle.alphabet.mask]
            for drawn in product(oracle.ids.tolist(), repeat=len(cells)):
                ps = [prob[cell][token] for cell, token in zip(cells, drawn)]
                kept = ps.index(max(ps))
                after = list(context)
                after[cells[kept]] = drawn[kept]
                following[tuple(after)] += weight * math.prod(ps)
        contexts = following
    weights = torch.tensor(list(contexts.values()), dtype=torch.float64)
    return torch.bincount(oracle.number(torch.tensor(list(contexts))), weights, minlength=len(oracle.joint))


@pytest.mark.parametrize(("name", "bias"), [("random_table", 0.483), ("copy_pairs", 0.472), ("independent", 0.496)])
def test_an_order_chosen_by_the_drawn_tokens_is_biased(name, bias):
    """By enumeration half of the mass is elsewhere, even where cells are independent; and the sampler has that law."""
    oracle, rows = LAWS[name], 8000
    law = chosen_by_the_draw(oracle)
    assert total_variation(law, oracle.joint) == pytest.approx(bias, abs=1e-3)
    tokens = sample(Confidence(MANY, "drawn"), oracle, blank(rows, 4, oracle.alphabet), Stream.of(0, rows)).tokens
    floor = noise_floor(law, rows)
    assert total_variation(frequencies(oracle, tokens), law) < floor.mean + 4 * floor.sd
    assert law.max() > oracle.joint[law.argmax()], "probable rows come too often"


@pytest.mark.parametrize("score", BLIND)
def test_the_promise_holds_at_the_conformance_budget(score):
    for schedule in COUNTS:
        sampler = Confidence(score=score, schedule=schedule, noise=1.0)
        assert sampler.law is Law.LIMIT
        conformance.check_law(sampler, LAWS["random_table"])
        conformance.check_infill(sampler, LAWS["parity"])


def test_what_each_variant_promises():
    assert Confidence().law is Confidence(noise=2.0, schedule="cosine", score="margin").law is Law.LIMIT
    for other in ({"score": "drawn"}, {"schedule": "threshold"}, {"draw": Greedy()}, {"draw": Nucleus(0.9)}):
        assert Confidence(**other).law is Law.HEURISTIC
    row = describe("remask.samplers.confidence:Confidence")
    assert (row.law, row.source) == ("limit", "Chang et al. 2022, arXiv 2202.04200, section 3.3")


# ---- what opening together breaks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["top_probability", "margin"])
def test_a_dependent_pair_opened_together_breaks_as_often_as_two_draws_differ(score):
    """By count with one step; by threshold if and only if its best token passes."""
    patient = Confidence(2, score)
    hasty = replace(patient, schedule="threshold", threshold=TOP - 0.001)
    for sampler in (replace(patient, steps=1), hasty):
        share, calls = broken(sampler, PAIR)
        assert abs(share - (1 - AGREE)) < 4 * math.sqrt(AGREE * (1 - AGREE) / 8000)
        assert calls == [1]
    for sampler in (patient, replace(hasty, threshold=TOP + 0.001)):
        assert broken(sampler, PAIR) == (0.0, [2])


def test_two_steps_open_the_two_pairs_one_after_the_other():
    """Four equally sure cells open from the left: each step takes one whole pair, the worst that it can do."""
    pair = torch.diag(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))  # powers of two: the ties are exact
    oracle, agree = Oracle("two pairs", pair[..., None, None] * pair, 0, 4), 0.375
    share, calls = broken(Confidence(2), oracle)
    both = 1 - agree**2
    assert abs(share - both) < 4 * math.sqrt(both * (1 - both) / 8000)
    assert calls == [2]
    law, ignored = enumerated(Confidence(2), oracle)
    assert ignored == pytest.approx(oracle.entropy)
    intact = (oracle.states[:, ::2] == oracle.states[:, 1::2]).all(1)
    assert float(law[intact].sum()) == pytest.approx(agree**2)


def greedy(oracle, threshold):
    """Calls that greedy draws above a threshold need, and whether they end in the mode of the joint law."""
    watched = Watched(oracle, 1)
    sampler = Confidence(schedule="threshold", threshold=threshold, draw=Greedy())
    tokens = sample(sampler, watched, blank(1, oracle.length, oracle.alphabet), Stream.of(0, 1)).tokens
    return watched.ledger.calls.item(), float(oracle.joint[oracle.number(tokens)]) == float(oracle.joint.max())


def test_greedy_draws_above_the_published_threshold_find_the_joint_mode():
    """n cells with p > n / (n + 1) each: the product of the marginals and the joint law have one mode (Wu et al.)."""
    at_once = []
    for seed in range(40):
        joint = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        joint[0, 1, 0] += 14 * torch.rand((), generator=torch.Generator().manual_seed(100 + seed))
        calls, mode = greedy(Oracle("peaked", joint, 0, 3), 3 / 4)
        at_once += [mode] if calls == 1 else []
    assert 10 < len(at_once) < 40
    assert all(at_once)


def test_below_that_threshold_greedy_draws_may_miss_it():
    """Both marginals are 0.665, just short of 2/3, and the row of their modes is the third of three."""
    oracle = Oracle("two of three", torch.tensor([[0.33, 0.335], [0.335, 0.0]], dtype=torch.float64), 0, 3)
    assert greedy(oracle, 0.66) == (1, False)
    assert greedy(oracle, 2 / 3) == (2, True)


# ---- relations -------------------------------------------------------------------------------------------------------


@every_law
def test_special_cases_are_the_same_canvases(oracle):
    canvas, stream = mixed_canvas(oracle, 200, 3), Stream.of(4, 200)

    def same(one, other):
        return torch.equal(sample(one, oracle, canvas, stream).tokens, sample(other, oracle, canvas, stream).tokens)

    assert same(Confidence(1), Ancestral(1)), "one step is one pass"
    assert same(Confidence(1), Confidence(schedule="threshold", threshold=0.0)), "everything passes 0"
    assert same(Confidence(MANY), Confidence(schedule="threshold", threshold=1.0)), "nothing passes 1"
    assert same(Confidence(3, "drawn", draw=Greedy()), Confidence(3, draw=Greedy())), "LLaDA's score, greedy"
    assert same(Confidence(oracle.length), Confidence(MANY)), "a step for every cell is enough"


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_gumbel_noise_is_finite_and_has_its_law():
    ends = gumbel(torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64))
    assert ends.isfinite().all()
    assert (ends.diff() > 0).all()
    assert ends[2] == pytest.approx(53 * math.log(2), rel=1e-9)
    uniform = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    assert float(gumbel(uniform).mean()) == pytest.approx(0.57721566, abs=1e-3)
    assert float(gumbel(uniform).var()) == pytest.approx(math.pi**2 / 6, abs=1e-2)
    assert not gumbel((1 - 2.0**-53 * torch.ones(1)).float()).isfinite().all(), "in float32 it would be infinite"


LAWS_OF_NOISE = {
    "top_probability": [0.55, 0.50, 0.49],
    "margin": [0.15, 0.33, 1e-9],  # a margin of 0 is never chosen before the others
    "entropy": [math.exp(sum(p * math.log(p) for p in cell)) for cell in (A, B, C)],
}


@pytest.mark.parametrize("score", LAWS_OF_NOISE)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_cell_is_drawn_by_the_score_to_the_power_of_one_over_the_noise(score, step):
    """Gumbel-max: P(cell) is proportional to score ^ (1 / tau) with tau = noise (1 - (step + 1) / steps)."""
    noise, steps = 0.8, 4
    opened = first_opened(Confidence(steps, score, "threshold", threshold=1.0, noise=noise), step)
    weight = torch.tensor(LAWS_OF_NOISE[score], dtype=torch.float64)
    assert surprise(opened, weight ** (1 / (noise * (1 - (step + 1) / steps)))) < 4
    if step == 2:
        assert surprise(opened, weight ** (1 / noise)) > 10, "noise that is not annealed would be seen"


@pytest.mark.parametrize("step", [3, 4, 900])
def test_noise_falls_to_nothing(step):
    """In the last of the steps, and in those that a threshold may take beyond them."""
    opened = first_opened(Confidence(4, "entropy", "threshold", threshold=1.0, noise=0.8), step)
    assert opened.tolist() == [0, 0, 6000]


def first_opened(sampler, step, rows=6000):
    """How many rows opened each of the cells A, B and C, all masked, at some step."""
    oracle = by_itself(A, B, C)
    state = start(blank(rows, 3, oracle.alphabet))
    _, info = sampler.step(Stream.of(1, rows), state._replace(step=state.step + step), oracle)
    assert info.changed.sum(1).eq(1).all()
    return info.changed.sum(0)


def test_overwhelming_noise_is_a_uniformly_random_order():
    oracle, rows = by_itself(A, B, C, A), 6000
    found = run(Confidence(1_000_000, noise=1000.0), oracle, blank(rows, 4, oracle.alphabet), Stream.of(2, rows))
    order = torch.stack([info.changed.long().argmax(1) for _, info in found], 1)
    counts = Counter(map(tuple, order.tolist()))
    assert set(counts) == set(permutations(range(4)))
    assert abs(surprise(torch.tensor(list(counts.values())), torch.full((24,), 1 / 24, dtype=torch.float64))) < 4


# ---- planted bugs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sold(Confidence):
    """Any variant, sold as one whose law tends to the model's."""

    law = Law.LIMIT


@dataclass(frozen=True)
class NoiseOfTheTokens(Sold):
    """The number that draws a cell's token is its noise too."""

    def _noise(self, stream, state):
        return 5 * gumbel(stream.uniform(state.step, Purpose.TOKEN, state.tokens.shape[1]))


@pytest.mark.parametrize(
    "twin",
    [Sold(score="drawn"), NoiseOfTheTokens(), Sold(schedule="threshold", threshold=0.5), Sold(draw=Greedy())],
    ids=["drawn", "token noise", "threshold", "greedy"],
)
def test_variants_without_the_law_are_caught_if_they_claim_it(twin):
    with pytest.raises(AssertionError, match="total variation"):
        conformance.check_law(twin, LAWS["random_table"])


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "sampler",
    [Confidence(3, "margin", "cosine", noise=1.0), Confidence(1, "drawn", "threshold", threshold=0.6, noise=0.5)],
    ids=["cosine", "threshold"],
)
def test_contract_of_the_variants(sampler, check):
    check(sampler, LAWS["markov_chain"])


WRONG = {
    "steps": [0, -3, 1_000_001, math.nan],
    "score": ["surprise"],
    "schedule": ["linear"],
    "threshold": [-0.1, 1.5, math.nan],
    "noise": [-1.0, math.inf, math.nan],
}


@pytest.mark.parametrize(("field", "wrong"), WRONG.items(), ids=WRONG)
def test_fields_that_make_no_sense(field, wrong):
    for value in wrong:
        with pytest.raises(BadInput, match=f"type --{field} "):
            Confidence(**{field: value})
