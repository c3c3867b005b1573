"""Compatibility of conditionals: nothing where there is one law, and what is found by hand where there is none."""

import math
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.alphabet import Alphabet
from remask.core.conditional import Visible
from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.lab import compatibility as c
from remask.lab.correlation import information_curve, partition_loss, subset_entropies
from remask.lab.laws import ising, random_table
from remask.nets.wrap import Temperature


class TwoCells:
    """p(a), p(b), p(a | b) [b, a] and p(b | a) [a, b], whether or not they fit together."""

    visible = Visible.NONE

    def __init__(self, alone, a_given_b, b_given_a):
        self.alone, self.given = torch.tensor(alone).double(), None
        self.other = [torch.tensor(a_given_b).double(), torch.tensor(b_given_a).double()]
        self.alphabet = Alphabet(4, mask=2, end=3, special=frozenset((2, 3)))

    def __call__(self, tokens, at=None):
        prob = torch.zeros(*tokens.shape, 4, dtype=torch.float64)
        for row, cell in product(range(len(tokens)), range(2)):
            seen = int(tokens[row, 1 - cell])
            prob[row, cell, :2] = self.alone[cell] if seen == 2 else self.other[cell][seen]
        return prob.log() if at is None else prob.log()[at]

    def rows(self, index):
        return self


PAIR = TwoCells([[0.6, 0.4], [0.5, 0.5]], [[0.9, 0.1], [0.3, 0.7]], [[0.6, 0.4], [0.2, 0.8]])
BOTH = torch.tensor([[0, 1], [1, 0]])


def every_order(rows, length):
    return torch.tensor(list(permutations(range(length)))).expand(rows, -1, -1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), concentration=st.floats(0.2, 3.0))
def test_one_law_has_one_likelihood_and_closed_cycles(seed, concentration):
    law, stream = random_table(4, 3, concentration, seed), Stream.of(seed, 12)
    rows = law.sample(12, seed)
    chains = c.chain_rule(law, rows, c.random_orders(stream, 5, 4))
    assert float(c.spread(chains.log_prob).max()) < 1e-10
    torch.testing.assert_close(chains.log_prob[:, 0], law.joint[law.number(rows)].log())
    for near in (False, True):
        ratio = c.walked(law, rows, stream, 3, near).ratio
        assert float(ratio.nan_to_num(0.0, 0.0, 0.0).abs().max()) < 1e-8


def test_two_conditionals_that_contradict_each_other_by_hand():
    tokens = torch.tensor([[0, 1]])
    found = c.chain_rule(PAIR, tokens, torch.tensor([[[0, 1], [1, 0]]])).log_prob
    first, second = math.log(0.6 * 0.4), math.log(0.5 * 0.3)
    assert found[0].tolist() == pytest.approx([first, second])
    assert float(c.spread(found)) == pytest.approx(abs(first - second) / math.sqrt(2))
    cells = torch.tensor([[0, 1]])
    walk = c.cycles(PAIR, tokens, cells, torch.tensor([[1, 0]]))  # a, b = 0, 1 and a', b' = 1, 0
    there = 0.9 * 0.4 * 0.7 * 0.2  # p(a|b') p(b|a) p(a'|b) p(b'|a')
    back = 0.8 * 0.3 * 0.6 * 0.1  # p(b|a') p(a|b) p(b'|a) p(a'|b')
    assert float(walk.ratio) == pytest.approx(math.log(there / back))
    first, second = math.log(0.3 * 0.1 / (0.7 * 0.9)), math.log(0.4 * 0.2 / (0.6 * 0.8))
    assert float(walk.odds) == pytest.approx((first + second) / 2)
    turned = c.cycles(PAIR, tokens, cells.flip(1), torch.tensor([[0, 1]]))
    assert float(turned.ratio) == pytest.approx(-float(walk.ratio))  # the cells in the other order: the way back


def test_temperature_keeps_cycles_and_breaks_the_chain_rule():
    """p(x_i | all others) at a temperature is that of p^(1/T); p(x_i | some others) is not."""
    law = random_table(5, 2, 1.0, seed=0)
    cooled, rows, stream = Temperature(law, 0.5), law.sample(20, 1), Stream.of(0, 20)
    assert float(c.walked(cooled, rows, stream, 4).ratio.abs().max()) < 1e-10
    assert float(c.spread(c.chain_rule(cooled, rows, c.random_orders(stream, 6, 5)).log_prob).mean()) > 0.05


def test_many_rows_are_asked_in_parts(monkeypatch):
    law, rows = random_table(4, 3, 0.7, seed=3), random_table(4, 3, 0.7, seed=3).sample(9, 0)
    stream = Stream.of(4, 9)
    orders = c.random_orders(stream, 4, 4)
    whole, walk = c.chain_rule(law, rows, orders), c.walked(law, rows, stream, 2)
    monkeypatch.setattr(c, "TOGETHER", 5)
    torch.testing.assert_close(c.chain_rule(law, rows, orders), whole)
    torch.testing.assert_close(c.walked(law, rows, stream, 2), walk, equal_nan=True)


def test_the_curve_is_the_information_curve():
    law = random_table(4, 2, 0.8, seed=5)
    chains = c.chain_rule(law, law.states, every_order(16, 4))
    exact = information_curve(subset_entropies(law))
    torch.testing.assert_close(law.joint @ chains.curve, exact)
    torch.testing.assert_close(law.joint @ chains.nats.mean(1), exact)
    assert float(exact.sum()) == pytest.approx(law.entropy)


def times(steps, length):
    """Every way in which `ancestral` may open its cells, all equally likely: blocks in order, empty ones left out."""
    for when in product(range(steps), repeat=length):
        blocks = [tuple(i for i in range(length) if when[i] == t) for t in range(steps)]
        yield tuple(block for block in blocks if block)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_what_ancestral_loses_is_the_mean_over_its_times(steps):
    law = random_table(4, 2, 0.5, seed=1)
    entropies = subset_entropies(law)
    curve, all_times = information_curve(entropies), list(times(steps, 4))
    losses = [partition_loss(entropies, blocks) for blocks in all_times]
    assert float(c.ancestral_loss(curve, steps)) == pytest.approx(math.fsum(losses) / len(losses))
    assert c.ancestral_calls(steps, 4) == pytest.approx(sum(map(len, all_times)) / len(all_times))
    weights = torch.zeros(4, dtype=torch.float64)
    for blocks in all_times:
        for at, block in enumerate(blocks):
            weights[sum(map(len, blocks[:at]))] += len(block) / len(all_times)
    torch.testing.assert_close(c.ancestral_weights(steps, 4), weights)


def test_a_schedule_of_equal_parts_is_another_one():
    """The planted mistake: as if `ancestral` in two steps opened two and two of four cells."""
    curve = information_curve(subset_entropies(ising(4, 0.6)))
    even = float(2 * (curve[0] + curve[2]) - curve.sum())
    assert abs(float(c.ancestral_loss(curve, 2)) - even) > 0.02


def test_fewest_steps():
    curve = information_curve(subset_entropies(ising(6, 0.4)))
    losses = [float(c.ancestral_loss(curve, T)) for T in range(1, 65)]
    assert losses == sorted(losses, reverse=True)
    for wanted in (0.05, 0.3, losses[6]):
        assert c.fewest_steps(curve, wanted, 64) == next(T for T in range(1, 65) if losses[T - 1] <= wanted)
    assert c.fewest_steps(curve, 10.0, 64) == 1
    assert c.fewest_steps(curve, losses[-1] / 2, 64) is None
    assert c.fewest_steps(torch.ones(6).double(), 1e-9, 64) == 1  # independent cells lose nothing


def test_places_and_orders():
    assert c.place(torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0]])).tolist() == [
        0.625,
        0.0,
    ]
    orders = c.random_orders(Stream.of(0, 4000), 2, 3)
    assert (orders.sort(2).values == torch.arange(3)).all()
    counts = torch.bincount((orders.flatten(0, 1) * torch.tensor([9, 3, 1])).sum(1))
    assert counts[counts > 0].tolist() == pytest.approx([8000 / 6] * 6, rel=0.1)
    assert c.left_to_right(2, 3).tolist() == [[[0, 1, 2]], [[0, 1, 2]]]
    with pytest.raises(BadInput, match="--orders 2"):
        c.spread(torch.zeros(3, 1))


def test_pairs_are_pairs():
    stream = Stream.of(1, 6000)
    near, far = c.pairs(stream, 4, neighbours=True), c.pairs(stream, 4)
    assert ((near[:, 0] - near[:, 1]).abs() == 1).all()
    for drawn, kinds in ((near, 6), (far, 12)):
        counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1])
        assert counts[counts > 0].tolist() == pytest.approx([6000 / kinds] * kinds, rel=0.2)
    with pytest.raises(BadInput, match="no pair"):
        c.pairs(stream, 1)


def test_candidates_are_other_ordinary_tokens_as_the_conditional_has_them():
    law = random_table(3, 4, 1.0, seed=2)
    rows = law.sample(1, 0).expand(20000, 3)
    cells = torch.tensor([[2, 0]]).expand(20000, 2)
    drawn = c.candidates(law, rows, cells, Stream.of(3, 20000))
    assert (drawn != rows[:, [2, 0]]).all() and (drawn < 4).all()
    seen = rows[:1].clone()
    seen[:, [0, 2]] = law.alphabet.mask
    for place, cell in enumerate((2, 0)):
        wanted = law(seen)[0, cell, :4].exp()
        wanted[rows[0, cell]] = 0
        shares = torch.bincount(drawn[:, place], minlength=4) / 20000
        assert shares.tolist() == pytest.approx((wanted / wanted.sum()).tolist(), abs=0.015)
