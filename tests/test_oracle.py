"""The oracle against the definition of conditional probability, by brute force over states."""

import math

import pytest
import torch

from remask.core.conditional import Visible
from tests.oracle import LAWS, Oracle, Watched, causal_net, frequencies, noise_floor, total_variation

every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)


def by_definition(oracle, row, cell):
    """p(x_cell | visible others) as a ratio of sums over states, [V]."""
    mask = oracle.alphabet.mask
    agrees = torch.ones(len(oracle.states), dtype=torch.bool)
    for i, token in enumerate(row.tolist()):
        if i != cell and token != mask:
            agrees &= oracle.states[:, i] == token
    law = torch.zeros(oracle.alphabet.size, dtype=torch.float64)
    law.index_add_(0, oracle.states[agrees, cell], oracle.joint[agrees])
    return law / law.sum()


def masked_rows(oracle, n, seed):
    hidden = torch.rand(n, oracle.length, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(hidden, oracle.alphabet.mask, oracle.sample(n, seed))


@every_law
def test_masked_cells_get_the_ratio_of_sums(oracle):
    tokens = masked_rows(oracle, 60, 0)
    log_prob = oracle(tokens)
    for row, answer in zip(tokens, log_prob):
        for cell in torch.nonzero(row == oracle.alphabet.mask)[:, 0].tolist():
            torch.testing.assert_close(answer[cell].exp(), by_definition(oracle, row, cell), rtol=1e-12, atol=1e-15)


@every_law
def test_visible_cells_are_points_or_leave_one_out(oracle):
    tokens = oracle.sample(20, 1)
    assert torch.equal(oracle(tokens).argmax(2), tokens)
    assert torch.equal(oracle(tokens).exp().sum(2), torch.ones(20, oracle.length, dtype=torch.float64))
    joint = oracle.joint.view([oracle.symbols] * oracle.length)
    blind = Oracle("blind", joint, oracle.alphabet.mask, oracle.alphabet.end, visible=Visible.LEAVE_ONE_OUT)
    for row, answer in zip(tokens, blind(tokens)):
        torch.testing.assert_close(answer[2].exp(), by_definition(oracle, row, 2), rtol=1e-12, atol=1e-15)


@every_law
def test_cells_asked_for_are_the_same_cells(oracle):
    tokens = masked_rows(oracle, 30, 2)
    at = tokens == oracle.alphabet.mask
    assert torch.equal(oracle(tokens, at), oracle(tokens)[at])


@every_law
def test_entropy_by_three_roads(oracle):
    """The sum over states, the chain rule, and the bound that masked models are trained on."""
    chain = float((oracle.joint * oracle.nats_of_cells(oracle.states).sum(1)).nan_to_num(0).sum())
    bound = sum(oracle.masked_entropy(k) / k for k in range(1, oracle.length + 1))
    assert chain == pytest.approx(oracle.entropy, rel=1e-10)
    assert bound == pytest.approx(oracle.entropy, rel=1e-10)
    assert 0 < oracle.entropy < math.log(oracle.symbols) * oracle.length


@every_law
def test_causal_net_is_the_chain_rule(oracle):
    tokens = oracle.sample(40, 3)
    seen = torch.cat([torch.full((40, 1), oracle.alphabet.end), tokens[:, :-1]], 1)
    net = causal_net(oracle)
    nats = net.nll(net.hidden(seen).flatten(0, 1), tokens.flatten(), oracle.alphabet.mask).view_as(tokens)
    torch.testing.assert_close(nats, oracle.nats_of_cells(tokens))
    torch.testing.assert_close(nats.sum(1), -oracle.joint[oracle.number(tokens)].log())


@every_law
def test_samples_sit_on_the_noise_floor_and_a_wrong_law_does_not(oracle):
    floor = noise_floor(oracle.joint, 5000)
    assert total_variation(frequencies(oracle, oracle.sample(5000, 7)), oracle.joint) < floor.mean + 4 * floor.sd
    tilted = oracle.joint**0.8
    assert total_variation(tilted / tilted.sum(), oracle.joint) > 0.005


def test_the_floor_falls_as_the_root_of_the_sample():
    joint = LAWS["random_table"].joint
    small, large = noise_floor(joint, 4000), noise_floor(joint, 64000)
    assert small.mean / large.mean == pytest.approx(4, rel=0.1)


def test_a_watched_conditional_counts_rows_and_refuses_a_broken_promise():
    oracle = LAWS["markov_chain"]
    watched = Watched(oracle, 3)
    tokens = torch.full((3, oracle.length), oracle.alphabet.mask)
    watched(tokens)
    watched.rows(torch.tensor([2]))(tokens[:1])
    assert watched.ledger.calls.tolist() == [1, 1, 2]
    assert watched.ledger.batches == [3, 1]
    with pytest.raises(AssertionError, match="another number of rows"):
        watched(tokens[:2])
    known = oracle.sample(3, 0)
    cached = watched.given(known, torch.tensor([2, 2, 2]))
    with pytest.raises(AssertionError, match="settled cells were changed"):
        cached(tokens)
    with pytest.raises(AssertionError, match="a mask was handed over"):
        watched.given(tokens, torch.tensor([1, 1, 1]))(tokens)
