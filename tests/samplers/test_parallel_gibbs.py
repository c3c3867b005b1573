"""Synchronous redraws: a chain with a law of its own, which is known in closed form."""

import pytest
import torch

from remask.core.canvas import Canvas, blank
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.sampler import run, sample
from remask.core.stream import Stream
from remask.samplers.parallel_gibbs import ParallelGibbs
from tests.conformance import mixed_canvas
from tests.oracle import Oracle, Watched, frequencies, noise_floor, total_variation
from tests.samplers.chains import clique, marginals, spins_of, stationary, synchronous


def little(length, coupling, field):
    """pi(x) ~ exp(h sum x) prod_i cosh(h + J sum_{j != i} x_j)."""
    spins = spins_of(length)
    total = spins.sum(1, keepdim=True)
    weight = (field * total[:, 0]).exp() * torch.cosh(field + coupling * (total - spins)).prod(1)
    return weight / weight.sum()


@pytest.mark.parametrize(("coupling", "distance"), [(0.1, 0.123), (0.25, 0.166), (0.5, 0.123)])
def test_the_stationary_law_is_the_little_model(coupling, distance):
    oracle = clique(6, coupling, 0.05, Visible.LEAVE_ONE_OUT)
    matrix, law = synchronous(oracle), little(6, coupling, 0.05)
    torch.testing.assert_close(law @ matrix, law, atol=1e-10, rtol=0)
    torch.testing.assert_close(law[:, None] * matrix, (law[:, None] * matrix).T, atol=1e-12, rtol=0)  # reversible
    torch.testing.assert_close(stationary(matrix), law, atol=1e-8, rtol=0)
    assert total_variation(law, oracle.joint) == pytest.approx(distance, abs=6e-4)


@pytest.mark.parametrize("visible", [Visible.LEAVE_ONE_OUT, Visible.DENOISE])
@pytest.mark.parametrize("moves", [0, 1, 2, 20])
def test_canvases_have_the_law_of_the_chain(moves, visible):
    """At the noise floor after any number of sweeps, whether the conditional leaves one out or has to be made to."""
    oracle, rows = clique(4, 0.4, 0.1, visible), 6_000
    matrix = synchronous(clique(4, 0.4, 0.1, Visible.LEAVE_ONE_OUT))
    law = marginals(oracle) @ torch.linalg.matrix_power(matrix, moves)
    canvas = blank(rows, 4, oracle.alphabet)
    found = frequencies(oracle, sample(ParallelGibbs(moves), oracle, canvas, Stream.of(2, rows)).tokens)
    floor = noise_floor(law, rows)
    assert total_variation(found, law) < floor.mean + 4 * floor.sd
    assert total_variation(found, oracle.joint) > floor.mean + 6 * floor.sd


def test_both_kinds_of_conditional_give_the_same_canvases():
    canvases = []
    for visible in (Visible.LEAVE_ONE_OUT, Visible.DENOISE):
        oracle = clique(5, 0.3, 0.1, visible)
        canvases.append(sample(ParallelGibbs(6), oracle, mixed_canvas(oracle, 40, 0), Stream.of(0, 40)).tokens)
    assert torch.equal(*canvases)


def test_a_conditional_that_has_seen_the_token_would_never_move():
    """The planted bug: one that claims to leave the token out and does not."""

    class Liar(Oracle):
        visible = property(lambda self: Visible.LEAVE_ONE_OUT, lambda self, value: None)

        def _log_prob(self, tokens, cells):
            point = torch.nn.functional.one_hot(tokens[cells], self.alphabet.size).double().log()
            masks = (tokens[cells] == self.alphabet.mask)[:, None]
            return torch.where(masks, super()._log_prob(tokens, cells), point)

    truth = clique(4, 0.4, 0.1)
    liar = Liar("liar", truth.joint.view([2] * 4), truth.alphabet.mask, truth.alphabet.end)
    canvas = blank(60, 4, truth.alphabet)
    first = sample(ParallelGibbs(0), liar, canvas, Stream.of(0, 60)).tokens
    assert torch.equal(sample(ParallelGibbs(5), liar, canvas, Stream.of(0, 60)).tokens, first)
    assert not torch.equal(sample(ParallelGibbs(5), truth, canvas, Stream.of(0, 60)).tokens, first)


@pytest.mark.parametrize("visible", [Visible.LEAVE_ONE_OUT, Visible.DENOISE])
def test_calls_of_a_sweep(visible):
    """One, or one for each unknown cell where the net has to be asked with that cell masked."""
    oracle, moves = clique(5, 0.3, 0.1, visible), 3
    canvas = mixed_canvas(oracle, 40, 2)
    watched = Watched(oracle, 40)
    told = sum(info.calls for _, info in run(ParallelGibbs(moves), watched, canvas, Stream.of(0, 40)))
    unknown = canvas.unknown.sum(1)
    sweep = torch.ones_like(unknown) if visible is Visible.LEAVE_ONE_OUT else unknown
    expected = torch.where(unknown > 0, 1 + moves * sweep, 0)
    assert torch.equal(watched.ledger.calls, expected)
    assert torch.equal(told, expected)


def test_a_draft_begins_with_a_sweep():
    oracle = clique(4, 0.3, 0.1, Visible.LEAVE_ONE_OUT)
    tokens = oracle.sample(30, 0)
    draft = Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    assert torch.equal(sample(ParallelGibbs(0), oracle, draft, Stream.of(0, 30)).tokens, tokens)
    assert len(list(run(ParallelGibbs(2), oracle, draft, Stream.of(0, 30)))) == 2


@pytest.mark.parametrize("moves", [-1, 10**7])
def test_fields_that_make_no_sense(moves):
    with pytest.raises(BadInput, match="type --moves"):
        ParallelGibbs(moves)
