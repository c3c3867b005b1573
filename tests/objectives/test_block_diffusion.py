"""Block diffusion: its loss is the bound, exactly -log p for the truth; what is masked; parts of the noise levels."""

import copy
from collections import Counter

import pytest
import torch

from remask.core.choose import blocks_of, in_each_block
from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream
from remask.metrics.block_nelbo import block_draws
from remask.nets.blockwise import in_blocks
from remask.objectives.block_diffusion import BlockDiffusion, clips
from remask.objectives.mdlm import MDLM
from tests.nets.tiny import ALPHABET, make, text
from tests.objectives.exact_blocks import LawBlocks, blind, bound_of, peeking
from tests.oracle import LAWS

ROWS = 600


def loss(objective, net, oracle, tokens, seed=0):
    batch = Batch.of(tokens, oracle.alphabet)
    stream = Stream.of(seed, len(tokens))
    return float(objective(net, objective.corrupt(batch, stream), stream.child(1)).mean())


def off(objective, net, oracle, draws=12):
    """How many standard errors the loss on true rows is away from the entropy."""
    values = torch.tensor([loss(objective, net, oracle, oracle.sample(ROWS, seed), seed) for seed in range(draws)])
    return float((values.mean() - oracle.entropy / oracle.length) / (values.std() / draws**0.5))


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_the_truth_pays_the_entropy(name, block):
    """The bound is tight for the law itself, whatever the blocks, also where they do not divide the length."""
    oracle = LAWS[name]
    assert abs(off(BlockDiffusion(block), LawBlocks(oracle, block), oracle)) < 4


@pytest.mark.parametrize("name", ["markov_chain", "parity"])
@pytest.mark.parametrize("bug", [blind, peeking])
def test_planted_bugs_are_noticed(name, bug):
    oracle = LAWS[name]
    assert abs(off(BlockDiffusion(2), bug(oracle, 2), oracle)) > 4


@pytest.mark.parametrize("block", [2, 3])
def test_draws_of_the_bound_have_its_mean_row_by_row(block):
    oracle = LAWS["random_table"]
    tokens = oracle.states[oracle.joint.argsort(descending=True)[:12]]
    exact = bound_of(oracle, tokens, block)
    drawn = block_draws(LawBlocks(oracle, block), tokens, oracle.alphabet, Stream.of(3, 12), draws=800)
    apart = (drawn.mean(1) - exact) / (drawn.std(1) / 800**0.5).clamp(min=1e-9)
    assert apart.abs().max() < 4.5
    assert (exact >= -oracle.joint.sort(descending=True).values[:12].log() - 1e-9).all()


def test_one_block_is_masked_diffusion():
    """The law of what is masked and what it weighs is that of mdlm."""
    tokens = text(4000, 5)
    found = []
    for objective in (BlockDiffusion(5), MDLM(low_rates=0.0)):
        question = objective.corrupt(Batch.of(tokens, ALPHABET), Stream.of(1, len(tokens)))
        counts = question.at.sum(1)
        assert torch.allclose(question.weight[:, 0], 5 / counts.float())
        found.append(Counter(counts.tolist()))
    assert found[0] == found[1] == Counter(dict.fromkeys(range(1, 6), 800))


def test_every_block_has_its_own_level_and_all_subsets_are_as_likely():
    tokens = text(6000, 7)
    question = BlockDiffusion(3).corrupt(Batch.of(tokens, ALPHABET), Stream.of(2, len(tokens)))
    sizes = blocks_of(torch.ones_like(tokens, dtype=torch.bool), 3)
    assert sizes[0].tolist() == [3, 3, 1]
    counts = blocks_of(question.at, 3)
    for block, size in enumerate((3, 3, 1)):
        for count in range(1, size + 1):
            assert int((counts[:, block] == count).sum()) == pytest.approx(6000 / size, abs=2)
    assert question.at[:, 6].all()
    one = counts[:, 0] == 1
    places = question.at[one, :3].double().mean(0)
    assert ((places - 1 / 3).abs() < 4 * (2 / 9 / one.sum()) ** 0.5).all()
    pairs = Counter(zip(counts[:, 0].tolist(), counts[:, 1].tolist()))
    assert len(pairs) == 6  # levels are a golden ratio apart: neighbours differ, and none follows from the other
    assert min(pairs.values()) > 200
    weight = question.weight * question.at
    assert torch.allclose(weight[:, :3].sum(1), torch.full((6000,), 3.0))


@pytest.mark.parametrize(("low", "high", "counts"), [(0.3, 0.8, {3, 4, 5, 6}), (0.45, 0.95, {4, 5, 6, 7})])
def test_clipped_levels(low, high, counts):
    objective = BlockDiffusion(8, low, high)
    assert not objective.bounds
    assert objective.weighed == BlockDiffusion(8)
    question = objective.corrupt(Batch.of(text(500, 16), ALPHABET), Stream.of(0, 500))
    assert {*blocks_of(question.at, 8).flatten().tolist()} == counts
    assert torch.allclose((question.weight * question.at)[:, :8].sum(1), torch.full((500,), 8.0))


def test_a_narrow_clip_of_a_small_block_still_masks():
    question = BlockDiffusion(2, 0.1, 0.2).corrupt(Batch.of(text(10, 6), ALPHABET), Stream.of(0, 10))
    assert (blocks_of(question.at, 2) == 1).all()


def test_among_leaves_cells_out():
    among = torch.tensor([[True, False, True, True, False, True, False]])
    assert blocks_of(among, 3).tolist() == [[2, 2, 0]]
    uniform = Stream.of(0, 1).uniform(0, Purpose.MASK, 7)
    at = in_each_block(uniform, among, torch.tensor([[1, 2, 5]]), 3)
    assert (at & ~among).sum() == 0
    assert blocks_of(at, 3).tolist() == [[1, 2, 0]]


def test_parts_of_the_levels_are_weighed_by_their_variance():
    """Of a random net, whose loss does not depend on what it sees, narrow parts vary less; the order is by variance."""
    net = in_blocks(copy.deepcopy(make("remask-modernbert")), 4)
    found = clips(net, Batch.of(text(8, 16), ALPHABET), [(0.0, 1.0), (0.25, 0.3), (0.9, 1.0)], draws=6)
    assert [one.variance for one in found] == sorted(one.variance for one in found)
    assert {(one.low, one.high) for one in found} == {(0.0, 1.0), (0.25, 0.3), (0.9, 1.0)}
    assert found[0].low == 0.9  # all cells masked: nothing is drawn


def test_what_cannot_be_is_refused():
    for fields in ({"block": 0}, {"clip_low": 0.5, "clip_high": 0.5}, {"clip_high": 1.1}, {"clip_low": -0.1}):
        with pytest.raises(BadInput, match=r"--block came|--clip-low came"):
            BlockDiffusion(**fields)
