"""Remasking: the share of masks stays what the schedule says, and what it mends and what it costs are known exactly."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import blank
from remask.core.conditional import Visible
from remask.core.draw import Nucleus
from remask.core.errors import BadInput
from remask.core.sampler import Law, run, sample
from remask.core.schedule import SCHEDULES
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.remdm import SIGMAS, ReMDM
from tests import conformance
from tests.conformance import mixed_canvas
from tests.oracle import LAWS, Oracle, Watched, copy_pairs, frequencies, noise_floor, random_table, total_variation

ONE_RATE = [name for name in SIGMAS if name != "conf"]  # every cell of a row has the same sigma


def path(sampler, conditional, canvas, seed=0):
    """Tokens before and after, changed and calls of every step."""
    before, found = canvas.tokens, []
    for state, info in run(sampler, conditional, canvas, Stream.of(seed, len(before))):
        found.append((before, state.tokens, info.changed, info.calls))
        before = state.tokens
    return found


def rates(sampler, step):
    """Chances of opening and of remasking at a step, where they are the same for every cell."""
    one = torch.ones(1, 1)
    opens, sigma = sampler.rates(torch.tensor([step]), one, one.bool())
    return float(opens), float(sigma)


# ---- without remasking it is ancestral sampling ----------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("strategy", ["cap", "rescale", "conf"])
def test_eta_zero_gives_the_very_canvases_of_ancestral(strategy, schedule):
    for oracle in LAWS.values():
        canvas, stream = mixed_canvas(oracle, 60, 4), Stream.of(4, 60)
        mine = sample(ReMDM(7, strategy, 0.0, schedule), oracle, canvas, stream)
        assert torch.equal(mine.tokens, sample(Ancestral(7, schedule), oracle, canvas, stream).tokens)


def test_what_it_promises():
    assert {ReMDM(strategy=name, eta=0.0).law for name in SIGMAS} == {Law.LIMIT}
    assert {ReMDM(strategy=name).law for name in SIGMAS} == {Law.HEURISTIC}
    assert ReMDM(eta=0.0, draw=Nucleus()).law is Law.HEURISTIC


@pytest.mark.slow
@pytest.mark.parametrize("law", ["copy_pairs", "random_table"])
def test_the_loop_without_remasking_tends_to_the_law_too(law):
    conformance.check_law(ReMDM(strategy="loop", eta=0.0), LAWS[law])


# ---- marginals: 1 - alpha_s of the cells are masked at s, whatever sigma is ------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("strategy", ONE_RATE)
def test_the_posterior_of_one_cell_keeps_its_marginal(strategy, eta, schedule):
    """alpha_t (1 - sigma) + (1 - alpha_t) open = alpha_s, to rounding; both are probabilities."""
    sampler = ReMDM(20, strategy, eta, schedule)
    for step in range(20):
        move = sampler.move(torch.tensor([step]))
        opens, sigma = rates(sampler, step)
        assert 0 <= sigma <= float(move.most)
        assert -1e-12 <= opens <= 1 + 1e-12
        written = float(move.alpha_t) * (1 - sigma) + (1 - float(move.alpha_t)) * opens
        assert written == pytest.approx(float(move.alpha_s), abs=1e-12)
    assert rates(sampler, 19) == (1.0, 0.0)


def drift(sampler, rows=2500, seed=0):
    """How many standard errors the share of masks is off 1 - alpha_s, at the worst step."""
    oracle = LAWS["independent"]
    worst = 0.0
    for step, (_, after, _, _) in enumerate(path(sampler, oracle, blank(rows, 4, oracle.alphabet), seed)):
        share = float((after == oracle.alphabet.mask).double().mean())
        expected = 1 - float(sampler.move(torch.tensor([step])).alpha_s)
        worst = max(worst, abs(share - expected) / math.sqrt(max(expected * (1 - expected), 1e-12) / (4 * rows)))
    return worst


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("strategy", "eta"), [("cap", 0.1), ("rescale", 0.5), ("loop", 0.1), ("cap", 1.0)])
def test_the_share_of_masks_is_the_schedules_at_every_step(strategy, eta, schedule):
    assert drift(ReMDM(24, strategy, eta, schedule)) < 4


@dataclass(frozen=True)
class ForgetsSigma(ReMDM):
    """Opens at ancestral's rate however much is masked again."""

    def rates(self, step, confidence, written):
        _, sigma = super().rates(step, confidence, written)
        move = self.move(step)
        return (move.alpha_s - move.alpha_t) / (1 - move.alpha_t), sigma


@pytest.mark.parametrize("strategy", ["cap", "rescale", "loop"])
def test_without_the_sigma_term_the_share_drifts(strategy):
    assert drift(ForgetsSigma(24, strategy, 0.1)) > 20


@pytest.mark.parametrize("steps", [3, 24])
@pytest.mark.parametrize("strategy", SIGMAS)
def test_independent_cells_have_their_law_at_any_number_of_steps(strategy, steps):
    oracle, rows = LAWS["independent"], 5000
    tokens = sample(ReMDM(steps, strategy, 0.3), oracle, blank(rows, 4, oracle.alphabet), Stream.of(3, rows)).tokens
    floor = noise_floor(oracle.joint, rows)
    assert total_variation(frequencies(oracle, tokens), oracle.joint) < floor.mean + 4 * floor.sd


def chain(sampler, oracle) -> tuple[Tensor, Tensor, Tensor]:
    """Law over all canvases with masks after every step, its states, and the law of the exactly masked rows."""
    ids = torch.cat([oracle.ids, torch.tensor([oracle.alphabet.mask])])
    states = torch.cartesian_prod(*[ids] * oracle.length)
    hidden = states == oracle.alphabet.mask
    prob = oracle(states).exp()
    visible = torch.stack([oracle.posterior_mass(state) for state in states])
    law = hidden.all(1).double()
    laws, exact = [], []
    for step in range(sampler.steps):
        opens, sigma = rates(sampler, step)
        kernel = torch.ones(len(states), len(states), dtype=torch.float64)
        for cell in range(oracle.length):
            to_mask, to_token = hidden[:, cell], prob[:, cell][:, states[:, cell]]  # [from, to]
            opening = torch.where(to_mask[None], 1 - opens, opens * to_token)
            same = states[:, None, cell] == states[None, :, cell]
            staying = torch.where(to_mask[None], sigma, (1 - sigma) * same.double())
            kernel = kernel * torch.where(hidden[:, None, cell], opening, staying)
        law = law @ kernel
        alpha = float(sampler.move(torch.tensor([step])).alpha_s)
        laws.append(law)
        exact.append(visible * (alpha + (1 - 2 * alpha) * hidden.double()).prod(1))
    return torch.stack(laws), states, torch.stack(exact)


class Enumerated(Oracle):
    def posterior_mass(self, tokens):
        """p(visible cells of one row)."""
        agrees = ((self.states == tokens) | (tokens == self.alphabet.mask)).all(1)
        return self.joint[agrees].sum()


def enumerated(oracle):
    shape = [oracle.symbols] * oracle.length
    return Enumerated(oracle.name, oracle.joint.view(shape), oracle.alphabet.mask, oracle.alphabet.end)


@pytest.mark.parametrize("strategy", ONE_RATE)
def test_the_masking_process_is_kept_exactly_where_cells_are_independent(strategy):
    joint = torch.outer(*[torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)] * 2)
    laws, _, exact = chain(ReMDM(12, strategy, 0.4), Enumerated("independent", joint, 2, 4))
    assert (laws - exact).abs().max() < 1e-12


@pytest.mark.parametrize(("strategy", "rate"), [("cap", 2), ("rescale", 2), ("loop", 2), ("loop", 0)])
def test_the_masking_process_is_kept_in_the_limit_of_one_cell_at_a_time(strategy, rate):
    """eta = rate / T: at every time the canvas is p with random masks, up to an error that falls as 1 / T."""
    oracle = enumerated(random_table(2, 3, seed=2, mask=3, end=4))
    worst = []
    for steps in (20, 40, 80, 160):
        laws, _, exact = chain(ReMDM(steps, strategy, rate / steps), oracle)
        worst.append(float((laws - exact).abs().sum(1).max() / 2))
    ratios = [a / b for a, b in pairwise(worst)]
    assert worst[0] > 0.01
    assert all(1.7 < ratio < 2.3 for ratio in ratios), ratios


def test_the_sampler_walks_that_chain():
    """The law over canvases after each step is the enumerated one, dependent cells and large eta included."""
    oracle, rows = enumerated(random_table(2, 3, seed=2, mask=3, end=4)), 6000
    sampler = ReMDM(5, "cap", 0.4)
    laws, states, _ = chain(sampler, oracle)
    for law, (_, after, _, _) in zip(laws, path(sampler, oracle, blank(rows, 2, oracle.alphabet), 6), strict=True):
        found = (after[:, None] == states).all(2).double().mean(0)
        floor = noise_floor(law, rows)
        assert total_variation(found, law) < floor.mean + 4 * floor.sd


# ---- what it costs, and what it mends --------------------------------------------------------------------------------


def broken_pairs(sampler, disagree):
    """The exact share of pairs that disagree at the end, where the conditional is exact.

    States of a pair: masked, half written, whole, broken; `disagree` = 1 - sum p^2.
    """
    law = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    for step in range(sampler.steps):
        o, g = rates(sampler, step)
        kernel = [
            [(1 - o) ** 2, 2 * o * (1 - o), o * o * (1 - disagree), o * o * disagree],
            [g * (1 - o), (1 - g) * (1 - o) + g * o, (1 - g) * o, 0],
            [g * g, 2 * g * (1 - g), (1 - g) ** 2, 0],
            [g * g, 2 * g * (1 - g), 0, (1 - g) ** 2],
        ]
        law = law @ torch.tensor(kernel, dtype=torch.float64)
    return float(law[3])


def share_broken(sampler, conditional, rows, length, seed=0):
    tokens = sample(sampler, conditional, blank(rows, length, conditional.alphabet), Stream.of(seed, rows)).tokens
    return (tokens[:, ::2] != tokens[:, 1::2]).double().mean(1)


@pytest.mark.parametrize(("strategy", "eta"), [("cap", 0.05), ("cap", 0.5), ("rescale", 0.2), ("loop", 0.1)])
def test_an_exact_conditional_breaks_as_many_pairs_as_theory_says_and_more_than_ancestral(strategy, eta):
    """Remasking is no gift: cells that open again share steps with others. The same grid without it breaks 1 / T."""
    oracle, rows, steps = copy_pairs(2, 3, seed=1, mask=1, end=0), 8000, 12
    marginal = torch.stack([oracle.joint[oracle.states[:, 0] == i].sum() for i in oracle.ids])
    disagree = float(1 - (marginal**2).sum())
    expected = broken_pairs(ReMDM(steps, strategy, eta), disagree)
    found = float(share_broken(ReMDM(steps, strategy, eta), oracle, rows, 2).mean())
    assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / rows)
    assert broken_pairs(ReMDM(steps, "cap", 0.0), disagree) == pytest.approx(disagree / steps)
    assert expected > disagree / steps


def test_the_loop_mends_what_its_own_steep_start_broke():
    """On an exact conditional and the same path of alpha, remasking while alpha rests halves the broken pairs."""
    assert broken_pairs(ReMDM(32, "loop", 0.05), 0.6) < 0.6 * broken_pairs(ReMDM(32, "loop", 0.0), 0.6)


class ShortSighted:
    """Cells come in pairs that should be equal; the net copies a visible partner, and errs the more the less it sees.

    A share of its mass, that of masked cells in the row, is uniform over the four symbols.
    """

    alphabet = Alphabet(5, 4, None, None, frozenset({4}))
    visible = Visible.NONE

    def __call__(self, tokens, at=None):
        hidden = tokens == 4
        blur = hidden.double().mean(1, keepdim=True).expand_as(tokens)[at]
        partner = tokens.view(len(tokens), -1, 2).flip(2).reshape(tokens.shape)[at]
        blur = torch.where(partner == 4, 1.0, blur)[:, None]
        prob = torch.nn.functional.one_hot(partner.clamp(max=3), 5) * (1 - blur)
        prob[:, :4] += blur / 4
        return prob.log()

    def rows(self, index):
        return self

    def given(self, tokens, upto):
        return self


@pytest.mark.parametrize(("strategy", "eta"), [("cap", 0.1), ("rescale", 0.4), ("loop", 0.1)])
def test_remasking_mends_what_a_net_wrote_when_it_saw_little(strategy, eta):
    """At equal steps fewer broken pairs than ancestral, by many standard errors."""
    net, rows = ShortSighted(), 1200
    plain = share_broken(Ancestral(32), net, rows, 12, seed=1)
    mended = share_broken(ReMDM(32, strategy, eta), net, rows, 12, seed=2)
    error = math.sqrt(float(plain.var() + mended.var()) / rows)
    assert float(plain.mean() - mended.mean()) > 6 * error


# ---- steps, calls, phases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SIGMAS)
def test_a_row_pays_for_steps_that_open_a_cell_and_takes_them_all(strategy):
    oracle, steps = LAWS["random_table"], 9
    canvas = mixed_canvas(oracle, 80, 0)
    watched = Watched(oracle, 80)
    found = path(ReMDM(steps, strategy, 0.3), watched, canvas)
    assert len(found) == steps
    mask, again = oracle.alphabet.mask, 0
    for before, after, changed, calls in found:
        opened = changed & (after != mask)
        assert (before[opened] == mask).all()  # nothing is rewritten but through a mask, nor masked and opened at once
        assert torch.equal(calls, opened.any(1).long())
        again += int((changed & (after == mask)).sum())
    assert torch.equal(watched.ledger.calls, sum(calls for *_, calls in found))
    assert (watched.ledger.calls <= steps).all()
    assert again > 0
    assert not (found[-1][2] & (found[-1][1] == mask)).any()


def test_the_loop_masks_again_only_in_its_middle():
    sampler, oracle = ReMDM(20, "loop", 1.0), LAWS["ring_ising"]
    steps = path(sampler, oracle, blank(300, 5, oracle.alphabet))
    again = [bool((changed & (after == oracle.alphabet.mask)).any()) for _, after, changed, _ in steps]
    assert again == [False] * 9 + [True] * 10 + [False]  # t from 0.55 to 0.05
    opens, sigma = rates(sampler, 12)
    assert sigma == pytest.approx(0.1 / 0.9)
    assert opens == pytest.approx(sigma * 0.9 / 0.1)


def test_the_path_of_the_loop_by_hand():
    sampler = ReMDM(20, "loop", loop_on=0.6, loop_off=0.2, loop_alpha=0.8)
    at = [float(sampler.move(torch.tensor([step])).alpha_t) for step in (0, 4, 8, 12, 16, 18)]
    assert at == pytest.approx([0, 0.4, 0.8, 0.8, 0.8, 0.9])
    assert float(sampler.move(torch.tensor([19])).alpha_s) == 1


# ---- confidence ------------------------------------------------------------------------------------------------------


def test_confidence_shares_out_the_rate_by_hand():
    confidence = torch.tensor([[0.9, 0.1, 0.5, 0.3]], dtype=torch.float64)
    written = torch.tensor([[True, True, False, True]])
    step = torch.tensor([7])  # of 10: t = 0.3, s = 0.2, the largest sigma is 0.2 / 0.7
    opens, sigma = ReMDM(10, "conf", 1.0).rates(step, confidence, written)
    weight = torch.tensor([math.exp(-0.9), math.exp(-0.1), 0, math.exp(-0.3)], dtype=torch.float64)
    assert torch.allclose(sigma[0], 0.2 / 0.7 * weight / weight.sum(), rtol=1e-12)
    assert float(opens[0, 2]) == pytest.approx(1 / 3)  # a masked cell opens as in ancestral sampling
    bounded = ReMDM(10, "conf", 0.1).rates(step, confidence, written)[1]
    assert torch.allclose(bounded, sigma.clamp(max=0.1))
    nothing = ReMDM(10, "conf", 1.0).rates(step, confidence, torch.zeros_like(written))[1]
    assert not nothing.any()


def test_one_cell_a_step_at_most_is_masked_again_by_confidence():
    """The shares of a row sum to one, so what is masked again a step is the largest sigma, on average."""
    oracle, rows, steps = LAWS["ring_ising"], 4000, 8
    sampler = ReMDM(steps, "conf", 1.0)
    for step, (before, after, changed, _) in enumerate(path(sampler, oracle, blank(rows, 5, oracle.alphabet))):
        again = (changed & (after == oracle.alphabet.mask)).sum(1).double()
        some = (before != oracle.alphabet.mask).any(1).double()
        most = float(sampler.move(torch.tensor([step])).most) if step < steps - 1 else 0.0
        gap = again - most * some
        assert abs(float(gap.mean())) <= 4 * float(gap.std()) / math.sqrt(rows)


def test_confidence_is_the_probability_at_which_a_token_was_written():
    oracle = LAWS["markov_chain"]
    canvas = mixed_canvas(oracle, 30, 1)
    before, remembered = canvas.tokens, torch.ones(30, 4, dtype=torch.float64)
    for state, info in run(ReMDM(12, "conf", 1.0), oracle, canvas, Stream.of(1, 30)):
        opened = info.changed & (state.tokens != oracle.alphabet.mask)
        remembered[opened] = oracle(before).gather(2, state.tokens[:, :, None])[:, :, 0][opened].exp()
        assert torch.allclose(state.confidence, remembered)
        before = state.tokens


# ---- planted bugs and bad fields -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MasksTheGiven(ReMDM):
    """Takes every cell with a token for one that it may mask again."""

    def step(self, stream, state, conditional):
        after, info = super().step(stream, state._replace(frozen=torch.zeros_like(state.frozen)), conditional)
        return after._replace(frozen=state.frozen), info


def test_masking_a_given_cell_is_caught():
    with pytest.raises(AssertionError, match="a frozen cell was written"):
        conformance.check_frozen(MasksTheGiven(6, "cap", 0.5), LAWS["markov_chain"])
    conformance.check_frozen(ReMDM(6, "cap", 0.5), LAWS["markov_chain"])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": steps} for steps in (0, -1, 1_000_001)),
        *({"eta": eta} for eta in (-0.1, 1.1, math.nan)),
        {"strategy": "hat"},
        {"schedule": "quadratic"},
        {"loop_on": 0.05, "loop_off": 0.55},
        {"loop_on": 1.0},
        {"loop_off": 0.0},
        {"loop_off": math.nan},
        {"loop_alpha": 1.0},
        {"loop_alpha": math.nan},
    ],
    ids=str,
)
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput, match="type --"):
        ReMDM(**wrong)
