"""Ancestral sampling: when cells open, what a coarse grid costs, and what it does not."""

import math

import pytest
import torch

from remask.core.canvas import blank
from remask.core.errors import BadInput
from remask.core.sampler import run, sample
from remask.core.schedule import SCHEDULES
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from tests.conformance import mixed_canvas
from tests.oracle import LAWS, Watched, copy_pairs, frequencies, noise_floor, total_variation


def openings(sampler, oracle, rows, seed=0):
    """The step at which each cell opened, [rows, L]."""
    canvas = blank(rows, oracle.length, oracle.alphabet)
    when = torch.full((rows, oracle.length), -1)
    for number, (_, info) in enumerate(run(sampler, oracle, canvas, Stream.of(seed, rows))):
        assert (when[info.changed] == -1).all(), "a cell opened twice"
        when[info.changed] = number
    return when


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_cells_open_as_the_schedule_says(schedule):
    """P(a cell opens between t and s) = alpha(s) - alpha(t), as a share of what is masked at t = 1."""
    steps, rows = 8, 4000
    when = openings(Ancestral(steps, schedule), LAWS["independent"], rows)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alpha = SCHEDULES[schedule].alpha(grid)
    expected = (alpha.diff() / (1 - alpha[0])) * when.numel()
    found = torch.bincount(when.flatten(), minlength=steps).double()
    chi = float(((found - expected) ** 2 / expected).sum())
    assert abs(chi - (steps - 1)) < 4 * math.sqrt(2 * (steps - 1))


def test_a_row_ends_within_the_grid_and_pays_for_steps_that_open_something():
    oracle, steps = LAWS["random_table"], 3
    watched = Watched(oracle, 300)
    canvas = mixed_canvas(oracle, 300, 0)
    assert len(list(run(Ancestral(steps), watched, canvas, Stream.of(0, 300)))) <= steps
    unknown = canvas.unknown.sum(1)
    assert (watched.ledger.calls <= unknown.clamp(max=steps)).all()
    assert (watched.ledger.calls >= (unknown > 0)).all()


@pytest.mark.parametrize("steps", [4, 40])
def test_expected_calls_are_those_of_balls_in_bins(steps):
    """n cells over T equally likely steps leave T (1 - (1 - 1/T)^n) of them occupied."""
    oracle, rows = LAWS["ring_ising"], 3000
    watched = Watched(oracle, rows)
    sample(Ancestral(steps), watched, blank(rows, oracle.length, oracle.alphabet), Stream.of(1, rows))
    calls = watched.ledger.calls.double()
    expected = steps * (1 - (1 - 1 / steps) ** oracle.length)
    assert abs(float(calls.mean()) - expected) < 4 * float(calls.std()) / math.sqrt(rows)


@pytest.mark.parametrize("steps", [1, 4, 16, 64])
def test_a_coarse_grid_costs_exactly_what_theory_says(steps):
    """Two cells of a pair open together with probability 1/T and then disagree with probability 1 - sum p^2."""
    oracle, rows = copy_pairs(2, 3, seed=1, mask=1, end=0), 12_000
    tokens = sample(Ancestral(steps), oracle, blank(rows, 2, oracle.alphabet), Stream.of(2, rows)).tokens
    broken = (tokens[:, 0] != tokens[:, 1]).double()
    marginal = torch.stack([oracle.joint[oracle.states[:, 0] == i].sum() for i in oracle.ids])
    expected = float(1 - (marginal**2).sum()) / steps
    assert abs(float(broken.mean()) - expected) < 4 * math.sqrt(expected * (1 - expected) / len(broken))


def test_one_step_is_the_product_of_the_marginals():
    oracle, rows = LAWS["random_table"], 20_000
    tokens = sample(Ancestral(1), oracle, blank(rows, 4, oracle.alphabet), Stream.of(3, rows)).tokens
    marginals = oracle(torch.full((1, 4), oracle.alphabet.mask))[0].exp()
    product = marginals.gather(1, oracle.states.T).prod(0)
    floor = noise_floor(product, rows)
    assert total_variation(frequencies(oracle, tokens), product) < floor.mean + 4 * floor.sd
    assert total_variation(frequencies(oracle, tokens), oracle.joint) > floor.mean + 40 * floor.sd


def test_one_row_in_which_most_steps_open_nothing():
    """A step that opens nothing in any row asks nothing and draws nothing."""
    oracle = LAWS["parity"]
    watched = Watched(oracle, 1)
    state, _ = list(run(Ancestral(400), watched, blank(1, 4, oracle.alphabet), Stream.of(0, 1)))[-1]
    assert state.done.all()
    assert oracle.number(state.tokens) >= 0
    assert watched.ledger.calls.item() <= 4


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": -3}, {"schedule": "quadratic"}])
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput, match="type --"):
        Ancestral(**wrong)
