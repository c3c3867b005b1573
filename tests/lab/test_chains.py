"""Chains by messages against the same laws by enumeration, and what enumeration cannot reach."""

import math

import pytest
import torch

from remask.core.canvas import blank
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.lab.chains import Chain, ising_grid, ising_path, ising_ring, markov
from remask.lab.laws import Law, hidden_markov, ising, markov_chain
from remask.samplers.first_hitting import FirstHitting
from tests.oracle import surprise

START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
STEP = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.0, 0.4, 0.6]], dtype=torch.float64)
SHOWS = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.4, 0.4], [0.25] * 4], dtype=torch.float64)

PAIRS = {
    "hidden markov": (Chain(START, STEP, SHOWS, 5), hidden_markov(START, STEP, SHOWS, 5)),
    "markov": (markov(START, STEP, 5), markov_chain(START, STEP, 5)),
    "ising path": (ising_path(7, 0.6, 0.2), ising(7, 0.6, 0.2, "path")),
    "ising ring": (ising_ring(6, 0.6, 0.2), ising(6, 0.6, 0.2, "ring")),
    "ring of two": (ising_ring(2, 0.6, 0.2), ising(2, 0.6, 0.2, "ring")),
    "ising grid": (ising_grid(2, 3, 0.5, -0.2), ising(6, 0.5, -0.2, "grid")),
    "square": (ising_grid(3, 3, 0.4, 0.1), ising(9, 0.4, 0.1, "grid")),
    "one cell": (ising_path(1, 0.6, 0.2), ising(1, 0.6, 0.2, "path")),
}
every_pair = pytest.mark.parametrize(("chain", "law"), PAIRS.values(), ids=PAIRS)


@every_pair
def test_log_p_of_every_state(chain, law):
    torch.testing.assert_close(chain.log_prob(law.states).exp(), law.joint, rtol=1e-10, atol=1e-14)


@every_pair
@pytest.mark.parametrize("visible", [Visible.DENOISE, Visible.LEAVE_ONE_OUT])
def test_conditionals_for_any_masks(chain, law, visible):
    chain = Chain(chain.start, chain.transition, chain.emission, chain.length, visible)
    law = Law(law.name, law.joint.view([law.symbols] * law.length), visible=visible)
    tokens = torch.randint(0, law.symbols + 1, (300, law.length), generator=torch.Generator().manual_seed(0))
    seen = (law.states[:, None] == tokens) | (tokens == law.alphabet.mask)
    possible = (seen.all(2).double() * law.joint[:, None]).sum(0) > 0
    tokens = tokens[possible]
    torch.testing.assert_close(chain(tokens).exp(), law(tokens).exp(), rtol=1e-9, atol=1e-12)
    at = tokens == chain.alphabet.mask
    torch.testing.assert_close(chain(tokens, at), chain(tokens)[at])


@every_pair
def test_samples_and_entropy(chain, law):
    rows = chain.sample(8000, 3)
    assert surprise(torch.bincount(law.number(rows), minlength=len(law.joint)), law.joint) < 4
    found = chain.entropy(8000, 1)
    assert abs(found.value - law.entropy) < 4 * found.stderr


def test_what_is_visible_has_a_probability_too():
    chain, law = PAIRS["hidden markov"]
    row = torch.tensor([[0, 4, 2, 4, 4]])
    agrees = ((law.states == row) | (row == 4)).all(1)
    assert chain.log_prob(row).exp().item() == pytest.approx(float(law.joint[agrees].sum()))


def test_a_long_ising_path_has_the_entropy_of_its_transfer_matrix():
    """Without a field: log 2 and then L - 1 bonds of log 2 cosh J - J tanh J each."""
    size, coupling = 1000, 0.8
    bond = math.log(2 * math.cosh(coupling)) - coupling * math.tanh(coupling)
    found = ising_path(size, coupling).entropy(300, 0)
    assert abs(found.value - (math.log(2) + (size - 1) * bond)) < 4 * found.stderr


def test_samplers_write_chains():
    """First-hitting through 12 cells of a hidden Markov model: pair frequencies as the model has them."""
    chain, rows = Chain(START, STEP, SHOWS, 12), 3000
    tokens = sample(FirstHitting(), chain, blank(rows, 12, chain.alphabet), Stream.of(0, rows)).tokens
    true = chain.sample(rows, 9)
    for pair in ((0, 1), (5, 6), (2, 9)):
        counts = [torch.bincount(x[:, pair[0]] * 4 + x[:, pair[1]], minlength=16).double() for x in (tokens, true)]
        spread = (counts[0] + counts[1]).clamp(min=1).sqrt()
        assert float(((counts[0] - counts[1]) / spread).abs().max()) < 4.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Chain(START, STEP, SHOWS, 0),
        lambda: Chain(START * 2, STEP, SHOWS, 3),
        lambda: Chain(START, STEP * 0.9, SHOWS, 3),
        lambda: Chain(START, STEP, -SHOWS, 3),
        lambda: ising_path(4, math.inf),
        lambda: ising_ring(5, math.nan),
        lambda: ising_grid(9, 9, 0.1),
    ],
)
def test_chains_that_cannot_be(make):
    with pytest.raises(BadInput):
        make()


def test_a_wrong_direction_is_seen():
    """The planted bug: messages from the right through the transposed matrix."""
    chain, law = PAIRS["markov"]
    twisted = Chain(START, STEP, torch.eye(3, dtype=torch.float64), 5)
    twisted.transition = (STEP / STEP.sum(0)).T.expand(4, -1, -1)
    tokens = torch.tensor([[0, 3, 3, 1, 3]])
    assert (twisted(tokens).exp() - law(tokens).exp()).abs().max() > 0.02
    torch.testing.assert_close(chain(tokens).exp(), law(tokens).exp(), rtol=1e-9, atol=1e-12)
