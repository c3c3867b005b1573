"""Total correlations against enumerated samplers, brute force and the samplers themselves."""

import math
from itertools import chain, combinations, pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from remask.core.canvas import blank
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.lab import correlation
from remask.lab.correlation import (
    Sampled,
    best_partitions,
    best_sizes,
    bound,
    divergence,
    in_order,
    information_curve,
    ordered_partitions,
    partition_loss,
    random_order,
    schedule_loss,
    sizes_of,
    step_losses,
    subset_entropies,
    total_correlation,
)
from remask.lab.laws import ising, markov_chain, random_table
from remask.samplers.ancestral import Ancestral
from remask.samplers.blocks import Blocks
from remask.samplers.confidence import Confidence
from tests.oracle import frequencies, noise_floor, total_variation

NOTES = random_table(4, 3, 0.3, seed=0)  # the instance of the notes: Dirichlet(.3) on 3^4 states
seeds = some.integers(0, 10**6)
few = settings(max_examples=15, deadline=None)


def compositions(total):
    """Every way to write a number as an ordered sum."""
    return [(first, *rest) for first in range(1, total) for rest in compositions(total - first)] + [(total,)]


def partitions(length):
    """Every ordered partition: 1, 3, 13, 75, 541 of them."""
    return list(chain.from_iterable(ordered_partitions(sizes, range(length)) for sizes in compositions(length)))


def entropy_of(law, cells):
    """By summing the table of states, one dictionary entry a pattern."""
    mass = {}
    for p, state in zip(law.joint.tolist(), law.digits.tolist()):
        key = tuple(state[i] for i in cells)
        mass[key] = mass.get(key, 0.0) + p
    return -math.fsum(p * math.log(p) for p in mass.values() if p)


# ---- entropies -------------------------------------------------------------------------------------------------------


def test_entropies_of_all_sets_are_those_of_brute_force():
    for law in (NOTES, random_table(3, 2, 0.5, seed=4), markov_chain(*correlation.random_chain(4, 1), 3)):
        entropies = subset_entropies(law)
        assert len(entropies) == 2**law.length
        for size in range(law.length + 1):
            for cells in combinations(range(law.length), size):
                assert float(entropies[correlation.set_of(cells)]) == pytest.approx(entropy_of(law, cells), abs=1e-12)
        assert float(entropies[-1]) == pytest.approx(law.entropy, abs=1e-12)


@few
@given(seeds, some.floats(0.1, 2.0))
def test_entropies_are_submodular_and_the_curve_falls(seed, concentration):
    entropies = subset_entropies(random_table(4, 2, concentration, seed))
    for one in range(16):
        for other in range(16):
            slack = entropies[one] + entropies[other] - entropies[one | other] - entropies[one & other]
            assert slack > -1e-12
    curve = information_curve(entropies)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(curve.tolist()))
    assert float(curve.sum()) == pytest.approx(float(entropies[-1]), abs=1e-12)


def test_the_curve_is_the_mean_over_sets_and_cells():
    curve = information_curve(subset_entropies(NOTES))
    for m in range(4):
        pairs = [(seen, i) for seen in combinations(range(4), m) for i in range(4) if i not in seen]
        mean = math.fsum(entropy_of(NOTES, (*seen, i)) - entropy_of(NOTES, seen) for seen, i in pairs) / len(pairs)
        assert float(curve[m]) == pytest.approx(mean, abs=1e-12)


def test_too_many_patterns_are_refused():
    with pytest.raises(BadInput, match=r"15 cells of 2 symbols have 3\^15 visible patterns"):
        subset_entropies(ising(15, 0.1))


# ---- KL is the sum of total correlations -----------------------------------------------------------------------------


def test_the_figures_of_the_notes():
    entropies = subset_entropies(NOTES)
    one_of_each = [((0, 1, 2, 3),), ((0, 2), (1, 3)), ((1,), (0, 3), (2,)), ((0,), (1,), (2,), (3,))]
    assert [round(partition_loss(entropies, blocks), 3) + 0.0 for blocks in one_of_each] == [0.807, 0.491, 0.112, 0.0]


@pytest.mark.parametrize(
    "law", [NOTES, ising(4, 0.7, 0.2, "ring"), correlation.copy_pairs(4, 2)], ids=lambda law: law.name
)
def test_kl_of_every_partition_is_its_sum_of_total_correlations(law):
    entropies, sampled = subset_entropies(law), Sampled(law)
    assert len(partitions(4)) == 75
    for blocks in partitions(4):
        log_prob = sampled.log_prob(blocks)
        assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-12)
        assert abs(divergence(law.joint, log_prob) - partition_loss(entropies, blocks)) < 1e-12


@few
@given(seeds, some.sampled_from(partitions(3)), some.floats(0.1, 2.0))
def test_kl_is_the_sum_for_random_laws(seed, blocks, concentration):
    law = random_table(3, 3, concentration, seed)
    lost = partition_loss(subset_entropies(law), blocks)
    assert abs(divergence(law.joint, Sampled(law).log_prob(blocks)) - lost) < 1e-12
    assert lost > -1e-12


def test_planted_forgetting_what_is_seen_breaks_the_sum():
    entropies, sampled = subset_entropies(NOTES), Sampled(NOTES)
    blocks = ((0, 2), (1, 3))
    forgetful = sum(total_correlation(entropies, block) for block in blocks)
    assert abs(divergence(NOTES.joint, sampled.log_prob(blocks)) - forgetful) > 0.01


def test_one_step_on_two_equal_bits():
    law = correlation.copy_pairs(2, 2)
    entropies = subset_entropies(law)
    found = random_order(Sampled(law), entropies, (2,))
    assert found.kl == pytest.approx(math.log(2), abs=1e-14) and found.total_variation == pytest.approx(0.5)
    assert random_order(Sampled(law), entropies, (1, 1)) == pytest.approx((0, 0, 0, 0, 0, 2), abs=1e-14)


@pytest.mark.parametrize("symbols", [2, 3])
def test_parity_costs_only_the_step_that_holds_the_last_two(symbols):
    curve = information_curve(subset_entropies(correlation.parity(4, symbols)))
    assert curve.tolist() == pytest.approx([math.log(symbols)] * 3 + [0.0], abs=1e-12)
    assert step_losses(curve, (2, 2)).tolist() == pytest.approx([0.0, math.log(symbols)], abs=1e-12)


def test_topics_are_a_mixture_of_independent_cells():
    law = correlation.topics(3, 2, math.log(3))
    assert law.joint.view(2, 2, 2)[0, 0, 0] == pytest.approx((27 + 1) / 2 / 64)
    assert law.joint.view(2, 2, 2)[0, 0, 1] == pytest.approx((9 + 3) / 2 / 64)


# ---- random order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", compositions(4), ids=str)
def test_the_loss_in_random_order_is_read_off_the_curve(sizes):
    """The identity that a net's cross-entropy is read by, to 1e-12, by enumerating every order and every row."""
    entropies = subset_entropies(NOTES)
    curve = information_curve(entropies)
    found = random_order(Sampled(NOTES), entropies, sizes)
    assert found.orders == math.factorial(4) // math.prod(map(math.factorial, sizes)) and found.kl_stderr == 0
    assert abs(found.kl - found.total_correlation) < 1e-12
    assert abs(found.kl - float(schedule_loss(curve, sizes))) < 1e-12
    assert -1e-12 < found.kl_mixture <= found.kl + 1e-12
    assert found.kl <= bound(curve, sizes) + 1e-12


def test_planted_riemann_sum_from_the_right_is_wrong():
    entropies = subset_entropies(NOTES)
    curve = information_curve(entropies)
    right = sum(2 * float(curve[m + 1]) for m in (0, 2)) - float(curve.sum())
    assert abs(right - random_order(Sampled(NOTES), entropies, (2, 2)).kl) > 0.1


def test_orders_that_are_drawn_agree_with_all_of_them():
    law = ising(9, 0.4, 0.1, "ring")
    entropies = subset_entropies(law)
    found = random_order(Sampled(law), entropies, (3, 3, 3))
    assert found.orders < 1680 and found.kl_stderr > 0
    assert abs(found.kl - found.total_correlation) < 1e-12
    assert abs(found.kl - float(schedule_loss(information_curve(entropies), (3, 3, 3)))) < 3 * found.kl_stderr


@few
@given(seeds, some.integers(1, 7))
def test_the_best_sizes_beat_all_others(seed, steps):
    curve = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).sort(descending=True)[0]
    losses = {sizes: float(schedule_loss(curve, sizes)) for sizes in compositions(7) if len(sizes) == steps}
    best = best_sizes(curve, steps)
    assert losses[best] == pytest.approx(min(losses.values()), abs=1e-12)
    assert all(lost <= bound(curve, sizes) + 1e-12 for sizes, lost in losses.items())


def test_losses_of_many_curves_at_once():
    curves = torch.tensor([[3.0, 2.0, 1.0, 1.0], [4.0, 4.0, 1.0, 0.0]], dtype=torch.float64)
    assert step_losses(curves, (1, 2, 1)).tolist() == [[0.0, 1.0, 0.0], [0.0, 3.0, 0.0]]
    assert schedule_loss(curves, (4,)).tolist() == [5.0, 7.0]
    assert best_sizes(curves[1], 2) == (2, 2)


def test_sizes_are_those_of_the_samplers():
    assert sizes_of("linear", 4, 10) == (3, 2, 3, 2) and sizes_of("cosine", 4, 10) == (1, 2, 4, 3)
    for schedule in ("linear", "cosine"):
        for steps in (1, 3, 8, 16):
            assert sum(sizes_of(schedule, steps, 16)) == 16 and len(sizes_of(schedule, steps, 16)) == steps


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 0, 2), (5, -1), ()], ids=str)
def test_schedules_that_do_not_fit_are_refused(sizes):
    with pytest.raises(BadInput, match="does not open 4 cells: type sizes of 1 or more that sum to 4"):
        schedule_loss(torch.zeros(4), sizes)


@pytest.mark.parametrize("steps", [0, 5])
def test_numbers_of_steps_that_do_not_fit_are_refused(steps):
    for asked in (lambda: best_sizes(torch.zeros(4), steps), lambda: sizes_of("linear", steps, 4)):
        with pytest.raises(BadInput, match=f"{steps} steps were asked for 4 cells: type 1 to 4"):
            asked()


# ---- fixed partitions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "law",
    [NOTES, random_table(4, 2, 1.0, seed=8), ising(4, 0.5, 0.1), correlation.parity(4, 2)],
    ids=["notes", "table", "clique", "parity"],
)
def test_the_best_partition_beats_all_others(law):
    entropies = subset_entropies(law)
    losses = {blocks: partition_loss(entropies, blocks) for blocks in partitions(4)}
    for steps, (lost, blocks) in enumerate(best_partitions(entropies), 1):
        least = min(lost for blocks, lost in losses.items() if len(blocks) == steps)
        assert len(blocks) == steps and losses[blocks] == lost == pytest.approx(least, abs=1e-12)


def test_planted_greedy_partitions_are_worse():
    """Opening the pair that costs least first is not the way to open all in two steps."""
    worse = 0
    for seed in range(20):
        entropies = subset_entropies(random_table(4, 2, 0.3, seed))
        pairs = ordered_partitions((2, 2), range(4))
        greedy = min(pairs, key=lambda blocks: total_correlation(entropies, blocks[0]))
        worse += partition_loss(entropies, greedy) > best_partitions(entropies)[1][0] + 1e-6
    assert worse > 10


def test_a_ring_is_best_opened_every_second_cell():
    """Even cells first, odd ones after: given their neighbours the odd ones are independent."""
    entropies = subset_entropies(ising(6, 0.5, 0.1, "ring"))
    lost, blocks = best_partitions(entropies)[1]
    assert set(map(frozenset, blocks)) == {frozenset({0, 2, 4}), frozenset({1, 3, 5})}
    assert lost == pytest.approx(total_correlation(entropies, blocks[0]), abs=1e-12)
    assert best_partitions(entropies)[2][0] < lost < partition_loss(entropies, in_order((3, 3))) / 3


def test_too_many_cells_to_partition_are_refused():
    with pytest.raises(BadInput, match="partitions of 13 cells are too many"):
        best_partitions(torch.zeros(2**13))


def test_blocks_of_an_order():
    assert in_order((1, 2)) == ((0,), (1, 2)) and in_order((2, 1), (2, 0, 1)) == ((2, 0), (1,))
    assert sorted(set(chain.from_iterable(ordered_partitions((1, 1, 1), range(3))))) == [(0,), (1,), (2,)]
    assert len(set(ordered_partitions((1, 1, 1), range(3)))) == len(list(permutations(range(3))))


# ---- the library's own samplers --------------------------------------------------------------------------------------

ROWS = 20000


def drawn(sampler, law):
    return frequencies(law, sample(sampler, law, blank(ROWS, law.length, law.alphabet), Stream.of(3, ROWS)).tokens)


def on_the_floor(found, law):
    floor = noise_floor(law, ROWS)
    assert total_variation(found, law) < floor.mean + 4 * floor.sd
    return floor


def test_blocks_from_left_to_right_have_the_enumerated_law():
    expected = Sampled(NOTES).log_prob(((0, 1), (2, 3))).exp()
    found = drawn(Blocks(Ancestral(steps=1), size=2, stop=False), NOTES)
    floor = on_the_floor(found, expected)
    assert total_variation(found, NOTES.joint) > floor.mean + 40 * floor.sd
    assert total_variation(found, Sampled(NOTES).log_prob(((2, 3), (0, 1))).exp()) > floor.mean + 40 * floor.sd


@pytest.mark.parametrize(("schedule", "sizes"), [("equal", (2, 2)), ("cosine", (2, 2)), ("equal", (2, 1, 1))])
def test_random_orders_have_the_enumerated_mixture(schedule, sizes):
    """Confidence under noise that drowns it: a random order, with the sizes of its schedule."""
    assert sizes_of({"equal": "linear"}.get(schedule, schedule), len(sizes), 4) == sizes
    sampled = Sampled(NOTES)
    laws = [sampled.log_prob(blocks).exp() for blocks in ordered_partitions(sizes, range(4))]
    found = drawn(Confidence(steps=len(sizes), schedule=schedule, noise=1e6), NOTES)
    floor = on_the_floor(found, torch.stack(laws).mean(0))
    mixture = random_order(sampled, subset_entropies(NOTES), sizes)
    assert mixture.total_variation > floor.mean + 20 * floor.sd
    assert abs(total_variation(found, NOTES.joint) - mixture.total_variation) < 4 * floor.mean
