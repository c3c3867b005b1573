"""GMLM: its expectations by enumeration over texts, counts, orders and masks; no sampling, no noise.

Shapes: B batch, L length, S states.
"""

import math
from dataclasses import dataclass
from itertools import combinations, permutations

import pytest
import torch

from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.objectives.gmlm import GMLM
from remask.objectives.mdlm import MDLM
from tests.oracle import LAWS, masked_net, surprise

every_law = pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
ORACLE = LAWS["random_table"]


class Nodes:
    """A stream whose numbers are nodes: the mean over its rows is the integral over all that is random.

    Every noise level of `levels`, every place in a block of `places`, every order of the cells; a level lies between
    two of the cells' numbers, so that for a random rate all counts from 0 to L are equally likely.
    """

    def __init__(self, length, levels, places):
        time = torch.cartesian_prod((torch.arange(levels) + 0.5) / levels, (torch.arange(places) + 0.5) / places)
        order = torch.tensor(list(permutations(range(length))))
        self.time = time.double().repeat_interleave(len(order), 0)
        self.mask = ((order + 1.0) / (length + 1)).double().repeat(len(time), 1)

    def uniform(self, step, purpose, length):
        return {Purpose.TIME: self.time, Purpose.MASK: self.mask}[purpose][:, :length]


def expected(objective, oracle, levels=1, places=1):
    """The expectation of the loss over texts of the law and over everything random, nats per token."""
    nodes = Nodes(oracle.length, levels, places)
    total, rows, net = 0.0, len(nodes.time), masked_net(oracle)
    for state, chance in zip(oracle.states, oracle.joint.tolist()):
        if chance:
            batch = Batch.of(state.expand(rows, -1), oracle.alphabet)
            total += chance * float(objective(net, objective.corrupt(batch, nodes), nodes).mean())
    return total


def entropy(joint, axes):
    """Of the cells that are not in `axes`, nats."""
    law = joint.sum(axes) if axes else joint
    return float(-torch.xlogy(law, law).sum())


def block_entropy(oracle, k):
    """H(X_K | X_-K) = H(X) - H(X_-K), the mean over all blocks of k cells: from the table, no conditional asked."""
    joint = oracle.joint.view([oracle.symbols] * oracle.length)
    blocks = list(combinations(range(oracle.length), k))
    return sum(oracle.entropy - entropy(joint, block) for block in blocks) / len(blocks)


# ---- factorised ------------------------------------------------------------------------------------------------------


@every_law
@pytest.mark.parametrize("count", ["uniform", "rate"])
def test_the_bound_of_the_truth_is_the_entropy(oracle, count):
    objective = GMLM(count, stratified=False)
    assert objective.bounds
    levels = oracle.length + (count == "rate")
    assert expected(objective, oracle, levels) == pytest.approx(oracle.entropy / oracle.length, rel=1e-6)


@every_law
def test_a_fixed_count_is_the_mean_cross_entropy_of_a_masked_cell(oracle):
    for k in range(1, oracle.length + 1):
        objective = GMLM("fixed", k, stratified=False)
        assert not objective.bounds
        assert expected(objective, oracle) == pytest.approx(oracle.masked_entropy(k) / k, rel=1e-6)


@dataclass(frozen=True)
class RateWithoutTheEmptyRow(GMLM):
    """L/k where counts from 0 on make it (L + 1)/k."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        length = batch.tokens.shape[1]
        return question._replace(weight=question.weight * length / (length + 1))


def test_a_weight_without_the_empty_row_is_caught():
    off = expected(RateWithoutTheEmptyRow("rate", stratified=False), ORACLE, ORACLE.length + 1)
    assert off == pytest.approx(0.8 * ORACLE.entropy / ORACLE.length, rel=1e-6)


# ---- chain -----------------------------------------------------------------------------------------------------------


@every_law
def test_one_step_of_the_chain_is_the_block_in_expectation(oracle):
    """(1/k) H(X_K | X_-K), nats a cell of the block: weight L/k on rows of L cells, and the count is B L."""
    for k in range(1, oracle.length + 1):
        objective = GMLM("fixed", k, "chain", stratified=False)
        assert expected(objective, oracle, places=k) == pytest.approx(block_entropy(oracle, k) / k, rel=1e-6)


@every_law
def test_the_chain_over_all_cells_is_the_likelihood(oracle):
    objective = GMLM("fixed", oracle.length, "chain", stratified=False)
    truth = oracle.entropy / oracle.length
    assert expected(objective, oracle, places=oracle.length) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(("count", "levels"), [("uniform", 4), ("rate", 5)])
def test_the_chain_with_a_random_count_is_the_mean_over_blocks(count, levels):
    oracle = LAWS["parity"]
    objective = GMLM(count, loss="chain", stratified=False)
    assert not objective.bounds
    blocks = sum(block_entropy(oracle, k) / k for k in range(1, 5)) / 4
    assert expected(objective, oracle, levels, math.lcm(1, 2, 3, 4)) == pytest.approx(blocks, rel=1e-6)
    assert blocks < 0.9 * oracle.entropy / oracle.length, "less than the entropy: no bound"


@dataclass(frozen=True)
class BlockForChain(GMLM):
    """Masks what is left of the block and weighs it as the whole block."""

    def corrupt(self, batch, stream):
        question = super().corrupt(batch, stream)
        return question._replace(weight=torch.full_like(question.weight, batch.tokens.shape[1] / self.k))


def test_the_weight_of_the_whole_block_is_caught():
    off = expected(BlockForChain("fixed", 3, "chain", stratified=False), ORACLE, places=3)
    truth = block_entropy(ORACLE, 3) / 3
    assert off < 0.8 * truth


def test_the_joint_loss_of_a_block_is_less_than_its_factors():
    """What a factorised answer loses (the block's total correlation), and the chain does not."""
    oracle = LAWS["parity"]
    chain, factors = (expected(GMLM("fixed", 4, loss, False), oracle, places=4) for loss in ("chain", "factorised"))
    joint = oracle.joint.view([2] * 4)
    cells = sum(entropy(joint, tuple(j for j in range(4) if j != i)) for i in range(4))
    assert factors - chain == pytest.approx((cells - oracle.entropy) / 4, rel=1e-6)


# ---- draws -----------------------------------------------------------------------------------------------------------


def question(objective, rows, seed=0, oracle=ORACLE):
    return objective.corrupt(Batch.of(oracle.sample(rows, seed), oracle.alphabet), Stream.of(seed, rows))


@pytest.mark.parametrize("stratified", [True, False])
@every_law
def test_a_uniform_count_is_masked_diffusion_draw_for_draw(oracle, stratified):
    ours = question(GMLM(stratified=stratified), 50, 7, oracle)
    theirs = question(MDLM(stratified=stratified), 50, 7, oracle)
    assert all(torch.equal(a, b) for a, b in zip(ours[:6], theirs[:6]))


def test_counts_of_a_rate_are_uniform_from_none_to_all():
    for seed, stratified in enumerate([True, False]):
        counts = torch.bincount(question(GMLM("rate", stratified=stratified), 20_000, seed).at.sum(1), minlength=5)
        assert surprise(counts, torch.ones(5)) < 4
    eight = LAWS["ring_ising"]
    strata = [question(GMLM("rate"), 60, seed, eight).at.sum() for seed in range(60)]
    loose = [question(GMLM("rate", stratified=False), 60, seed, eight).at.sum() for seed in range(60)]
    assert torch.stack(strata).double().var() * 1.5 < torch.stack(loose).double().var()


def test_each_step_of_the_chain_is_as_likely():
    for k in (1, 3, 4):
        counts = torch.bincount(question(GMLM("fixed", k, "chain"), 12_000).at.sum(1), minlength=k + 1)
        law = torch.cat([torch.zeros(1), torch.ones(k)])
        assert surprise(counts, law) < 4
    asked = question(GMLM("fixed", 3, "chain"), 100)
    torch.testing.assert_close((asked.weight * asked.at).sum(1), torch.full((100,), 4.0))


def test_a_row_of_which_nothing_is_masked_asks_nothing():
    asked = question(GMLM("rate", loss="chain"), 400)
    empty = torch.nonzero(~asked.at.any(1))[:, 0]
    assert len(empty)
    assert torch.isfinite(asked.weight).all()
    part = asked.part(empty)
    loss = GMLM("rate")(masked_net(ORACLE), part, Stream.of(0, len(empty)))
    assert float(loss.terms[0].total) == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"count": "all"}, "--count uniform|fixed|rate"),
        ({"loss": "joint"}, "--loss factorised|chain"),
        ({"count": "fixed"}, "--k"),
        ({"k": 3}, "--k"),
        ({"count": "fixed", "k": 0}, "1 or more"),
    ],
)
def test_fields_that_make_no_sense(wrong, says):
    with pytest.raises(BadInput) as error:
        GMLM(**wrong)
    assert says in str(error.value)


def test_more_cells_than_a_row_has():
    with pytest.raises(BadInput, match="type 1 to 4"):
        question(GMLM("fixed", 5), 3)
