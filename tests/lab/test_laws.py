"""Laws against the definition of probability, and against each other; what is refused."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.conditional import Visible
from remask.core.errors import BadInput, UnknownName
from remask.core.stream import Stream
from remask.lab import laws
from remask.lab.graphs import GRAPHS, edges_of, parts
from remask.lab.laws import Law, hidden_markov, ising, markov_chain, mixture, potts, random_table, spins_of
from tests.oracle import surprise

quick = settings(deadline=None, database=None, max_examples=30)
START, STEP = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.0, 0.4, 0.6]])
SHOWS = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.4, 0.4], [0.25, 0.25, 0.25, 0.25]])


def by_hand(size, energy):
    weights = torch.tensor([math.exp(energy(state)) for state in product([-1, 1], repeat=size)], dtype=torch.float64)
    return weights / weights.sum()


@pytest.mark.parametrize("graph", GRAPHS)
def test_ising_is_the_sum_over_edges(graph):
    edges = edges_of(graph, 5, 3)
    truth = by_hand(5, lambda s: 0.4 * sum(s[i] * s[j] for i, j in edges) - 0.3 * sum(s))
    torch.testing.assert_close(ising(5, 0.4, -0.3, graph, 3).joint, truth, rtol=1e-12, atol=0)


def test_potts_with_two_symbols_is_ising():
    """[x = y] = (1 + s t) / 2, and [x = 0] = (1 - s) / 2."""
    other = ising(4, 0.35, -0.1, "ring")
    torch.testing.assert_close(potts(4, 2, 0.7, 0.2, "ring").joint, other.joint, rtol=1e-12, atol=0)


def test_a_hidden_markov_model_sums_over_its_paths():
    law = hidden_markov(START, STEP, SHOWS, 3)
    for number, shown in enumerate(product(range(4), repeat=3)):
        total = sum(
            float(START[a] * SHOWS[a, shown[0]] * STEP[a, b] * SHOWS[b, shown[1]] * STEP[b, c] * SHOWS[c, shown[2]])
            for a, b, c in product(range(3), repeat=3)
        )
        assert law.joint[number].item() == pytest.approx(total, abs=1e-7)


def test_a_markov_chain_is_a_hidden_one_that_shows_its_state():
    open_one, hidden = markov_chain(START, STEP, 4), hidden_markov(START, STEP, torch.eye(3), 4)
    torch.testing.assert_close(open_one.joint, hidden.joint, rtol=1e-12, atol=1e-15)


@quick
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 3))
def test_conditionals_with_and_without_the_table_are_ratios_of_sums(seed, length, symbols):
    law = random_table(length, symbols, 0.7, seed)
    tokens = torch.randint(0, symbols + 1, (5, length), generator=torch.Generator().manual_seed(seed))
    answer = law(tokens).exp()
    for row, cells in zip(tokens, answer):
        posterior = law.posterior(row)
        for cell in torch.nonzero(row == law.alphabet.mask)[:, 0].tolist():
            truth = torch.zeros(symbols + 2, dtype=torch.float64).index_add(0, law.states[:, cell], posterior)
            torch.testing.assert_close(cells[cell], truth, rtol=1e-10, atol=1e-12)
    bare = Law("bare", law.joint.view([symbols] * length))
    bare.__dict__["_mass"] = None  # as if the table were too large to keep
    torch.testing.assert_close(bare(tokens).exp(), answer, rtol=1e-10, atol=1e-12)
    blind, bare.visible = Law("blind", law.joint.view([symbols] * length), visible=Visible.LEAVE_ONE_OUT), Visible.NONE
    torch.testing.assert_close(bare(tokens).exp(), blind(tokens).exp(), rtol=1e-10, atol=1e-12)


def test_numbers_of_a_law():
    law = mixture([markov_chain(START, STEP, 3), markov_chain(START.flip(0), STEP, 3)], [1, 3])
    assert law.joint.sum().item() == pytest.approx(1)
    torch.testing.assert_close(law.marginals.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(law.marginals[0].float(), 0.25 * START + 0.75 * START.flip(0))
    assert law.conditional is law
    assert law.entropy == pytest.approx(float(-(law.joint * law.joint.clamp(min=1e-300).log()).sum()))
    assert torch.equal(law.number(law.states), torch.arange(27))


def test_samples_have_the_law_and_are_a_function_of_the_stream():
    law = random_table(3, 3, 0.5, 1)
    rows = law.sample(20_000, 5)
    assert torch.equal(rows, law.sample(20_000, Stream.of(5, 20_000)))
    assert surprise(torch.bincount(law.number(rows), minlength=27), law.joint) < 4
    zeros = Law("zeros", torch.tensor([0.0, 1.0, 0.0]))
    assert zeros.sample(500, 0).unique().tolist() == [1]


def test_couplings_as_large_as_floats_are_kept_in_log_space():
    law = ising(6, 500.0, 0.0)
    assert law.joint[0].item() == pytest.approx(0.5)
    assert law.joint.isfinite().all()
    for wrong in (1e308, math.inf, math.nan):
        with pytest.raises(BadInput, match=r"overflow|smaller couplings"):
            ising(6, wrong, wrong)


def test_too_many_states_name_the_limit_and_the_alternative():
    assert len(ising(16, 0.1, 0.0, "ring").joint) == 2**16
    for make in (lambda: ising(21, 0.1), lambda: potts(14, 3, 0.1), lambda: random_table(30, 2), lambda: spins_of(40)):
        with pytest.raises(BadInput, match=r"2\^20.*take fewer cells, or a chain"):
            make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ising(0, 0.1),
        lambda: potts(3, 0, 0.1),
        lambda: random_table(3, 2, 0.0),
        lambda: mixture([random_table(2, 2), random_table(3, 2)], [1, 1]),
        lambda: mixture([random_table(2, 2)], [-1]),
        lambda: Law("nothing", torch.zeros(2, 2)),
    ],
)
def test_laws_that_cannot_be(make):
    with pytest.raises(BadInput):
        make()


def test_graphs():
    assert edges_of("clique", 4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert edges_of("ring", 4) == [(0, 1), (1, 2), (2, 3), (0, 3)]
    assert edges_of("ring", 2) == edges_of("path", 2) == [(0, 1)]
    assert sorted(edges_of("grid", 6)) == [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5)]
    assert edges_of("clique", 1) == edges_of("ring", 1) == []
    for seed in range(20):
        edges = edges_of("random", 7, seed)
        assert edges == edges_of("random", 7, seed)
        assert not parts(edges, 7).any(), "it hangs together"
    assert parts([(0, 1), (2, 3)], 5).tolist() == [0, 0, 2, 2, 4]
    with pytest.raises(UnknownName, match="did you mean 'ring'"):
        edges_of("rings", 4)
    with pytest.raises(BadInput, match="--size 1 or more"):
        edges_of("ring", 0)


def test_the_table_is_the_only_thing_that_grows_beyond_its_limit():
    assert laws.MOST_STATES == 2**20
    law = ising(18, 0.05, 0.1, "ring")  # 3^18 patterns: no table
    assert law._mass is None
    tokens = law.sample(2, 0)
    tokens[:, 3] = law.alphabet.mask
    at = tokens == law.alphabet.mask
    found = law(tokens, at)[:, law.ids].exp()
    spins = law._digit[tokens].double() * 2 - 1
    field = 2 * (0.1 + 0.05 * (spins[:, 2] + spins[:, 4]))
    torch.testing.assert_close(found[:, 1], torch.sigmoid(field), rtol=1e-9, atol=0)
