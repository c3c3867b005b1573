"""Dependence measured from conditionals, held to laws whose mutual informations are known by enumeration."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.lab import correlation
from remask.lab.chains import ising_path, markov
from remask.lab.correlation import Sampled, information_curve, ordered_partitions, schedule_loss, subset_entropies
from remask.lab.dependence import (
    CANDIDATES,
    chosen,
    cross_entropy_curve,
    distances,
    falling,
    mean,
    measure,
    pair_information,
    pair_loss,
    points,
    probe,
    smooth,
    spread,
)
from remask.lab.laws import ising, markov_chain, random_table
from tests.oracle import Watched

LAW = random_table(4, 3, 0.3, seed=0)
few = settings(max_examples=25, deadline=None)


def mutual_information(law, i, j, seen):
    """I(x_i; x_j | x_seen) by enumeration, nats."""
    entropies = subset_entropies(law)
    known, one, other = correlation.set_of(seen), 1 << i, 1 << j
    both = entropies[known | one | other]
    return float(entropies[known | one] + entropies[known | other] - both - entropies[known])


def hidden(law, seen):
    at = torch.ones_like(law.states, dtype=torch.bool)
    at[:, list(seen)] = False
    return at


def informations(law, i, seen, candidates=3, uniform=0.5, ask=None):
    """E over the law of what the estimator says of cell i and all others, [L]."""
    tokens = law.states[law.joint > 0]
    cell = torch.full((len(tokens),), i)
    quantile = torch.full((len(tokens),), uniform, dtype=torch.float64)
    found = pair_information(ask or law, tokens, hidden(law, seen)[law.joint > 0], cell, quantile, candidates)
    return law.joint[law.joint > 0] @ found


# ---- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "law",
    [LAW, ising(4, 0.6, 0.2, "ring"), correlation.copy_pairs(4, 2), correlation.parity(4, 2)],
    ids=lambda law: law.name,
)
def test_information_of_every_pair_given_every_set_is_exact(law):
    """All candidates tried: the law's conditional mutual information to 1e-12, and nothing elsewhere."""
    for size in range(law.length - 1):
        for seen in combinations(range(law.length), size):
            rest = [cell for cell in range(law.length) if cell not in seen]
            for i in rest:
                found = informations(law, i, seen).tolist()
                for j in range(law.length):
                    expected = mutual_information(law, i, j, seen) if j in rest and j != i else 0.0
                    assert found[j] == pytest.approx(expected, abs=1e-12)


def test_few_candidates_are_unbiased():
    """Averaged over the uniform, a systematic draw of two of three symbols gives the same."""
    places = 100
    mean_of = sum(informations(LAW, 1, (3,), 2, (k + 0.5) / places) for k in range(places)) / places
    assert mean_of.tolist() == pytest.approx(informations(LAW, 1, (3,)).tolist(), abs=5e-3)
    spread_of = torch.stack([informations(LAW, 1, (3,), 2, u) for u in (0.1, 0.9)])
    assert float((spread_of[0] - spread_of[1]).abs().max()) > 0.01


class Forgetful:
    """Planted: a conditional that does not look at cell 1."""

    def __init__(self, law):
        self.law, self.alphabet, self.visible = law, law.alphabet, law.visible

    def __call__(self, tokens, at=None):
        blind = tokens.clone()
        blind[:, 1] = self.alphabet.mask
        return self.law(blind, at)

    def rows(self, index):
        return self


def test_planted_blindness_is_seen():
    assert float(informations(LAW, 1, (), ask=Forgetful(LAW)).abs().max()) < 1e-15
    assert float(informations(LAW, 1, ())[2]) > 0.01


def test_a_mean_pair_is_the_slope_of_the_curve():
    """I(x_i; x_j | m others) on average is f(m) - f(m + 1), to 1e-12."""
    curve = information_curve(subset_entropies(LAW))
    for m in range(3):
        pairs = [
            float(informations(LAW, i, seen)[j])
            for seen in combinations(range(4), m)
            for i in range(4)
            for j in range(4)
            if i != j and not {i, j} & set(seen)
        ]
        assert math.fsum(pairs) / len(pairs) == pytest.approx(float(curve[m] - curve[m + 1]), abs=1e-12)


def test_probes_have_the_mean_of_the_law():
    """Random masks, random cells, few candidates: within 3 standard errors at every number of masked cells."""
    curve = information_curve(subset_entropies(LAW))
    rows = 1500
    tokens = LAW.sample(rows, 5)
    for masked in (2, 3, 4):
        found = probe(LAW, tokens, masked, Stream.of(7, rows), visits=2, candidates=2).within(1, 3)
        slope = float(curve[4 - masked] - curve[5 - masked])
        assert found.n == rows and abs(found.value - slope) < 3 * found.stderr < 0.06
        assert abs(found.value - 1.3 * slope) > 3 * found.stderr  # and it would have been seen


def test_pairs_of_a_chain_by_distance():
    """All masked, cells d apart share I(x_1; x_{1+d}) of the stationary chain, which decays geometrically."""
    flip = 0.2
    transition = torch.tensor([[1 - flip, flip], [flip, 1 - flip]], dtype=torch.float64)
    chain = markov(torch.tensor([0.5, 0.5]), transition, 24)
    tokens = chain.sample(20, 1)
    found = probe(chain, tokens, 24, Stream.of(2, 20))
    for distance in (1, 2, 3, 5):
        agree = (1 + (1 - 2 * flip) ** distance) / 2
        exact = math.log(2) + agree * math.log(agree) + (1 - agree) * math.log(1 - agree)
        assert found.within(distance, distance).value == pytest.approx(exact, abs=1e-12)
    some_seen = probe(chain, chain.sample(400, 3), 12, Stream.of(4, 400))
    values = [some_seen.within(near, far).value for near, far in distances(24)]
    assert all(later < earlier / 2 for earlier, later in pairwise(values[:4]))
    assert found.within(30, 40) is None


def test_cells_of_other_conditionals_know_nothing_of_each_other():
    law = random_table(1, 3, seed=3)
    alone = markov(law.joint, law.joint.expand(3, 3), 10)
    assert probe(alone, alone.sample(10, 0), 8, Stream.of(0, 10)).within(1, 9).value == pytest.approx(0, abs=1e-14)


def test_bins_of_distance_cover_everything_once():
    assert distances(10) == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 9)] and distances(2) == [(1, 1)]
    for length in range(2, 70):
        covered = [d for near, far in distances(length) for d in range(near, far + 1)]
        assert covered == list(range(1, length))


# ---- the curve -------------------------------------------------------------------------------------------------------


def test_the_curve_of_exact_conditionals_is_the_information_curve():
    rows = 4000
    measured = cross_entropy_curve(LAW, LAW.sample(rows, 1), range(4), Stream.of(2, rows))
    exact = information_curve(subset_entropies(LAW))
    for m in range(4):
        found = mean(measured[:, m], "nats")
        assert abs(found.value - float(exact[m])) < 3 * found.stderr < 0.1
    for sizes in ((4,), (2, 2), (1, 1, 2), (3, 1)):
        lost = mean(schedule_loss(measured, sizes), "nats")
        assert abs(lost.value - float(schedule_loss(exact, sizes))) < 3 * lost.stderr


def test_a_wrong_net_costs_what_its_sampler_costs():
    """Whatever the conditional, k_1 f(m_1) + k_2 f(m_2) + ... is the cross-entropy of the sampler under the data."""
    wrong, rows = random_table(4, 3, 2.0, seed=9), 6000
    measured = cross_entropy_curve(wrong, LAW.sample(rows, 1), range(4), Stream.of(3, rows))
    sampled = Sampled(wrong)
    for sizes in ((4,), (2, 2), (1, 1, 2), (1, 1, 1, 1)):
        laws = [sampled.log_prob(blocks) for blocks in ordered_partitions(sizes, range(4))]
        exact = -float(LAW.joint @ torch.stack(laws).mean(0))
        found = mean(schedule_loss(measured, sizes) + measured.sum(1), "nats")
        assert abs(found.value - exact) < 3 * found.stderr < 0.1
        assert abs(found.value - LAW.entropy) > 10 * found.stderr  # the entropy is another number


def test_shared_cells_make_differences_steady():
    """Planted: levels measured on their own give the same losses with several times the error."""
    chain, rows = ising_path(32, 0.8), 200
    tokens, stream, visible = chain.sample(rows, 1), Stream.of(2, rows), [0, 16, 24, 28, 31]
    nested = cross_entropy_curve(chain, tokens, visible, stream)
    alone = torch.cat([cross_entropy_curve(chain, tokens, [m], stream.child(m)) for m in visible], 1)
    losses = [mean(schedule_loss(spread(part, visible, 32), (4,) * 8), "nats") for part in (nested, alone)]
    assert abs(losses[0].value - losses[1].value) < 3 * losses[1].stderr
    assert losses[0].stderr < losses[1].stderr / 2


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_changes_nothing(batch, monkeypatch):
    tokens = LAW.sample(7, 1)
    before = measure(LAW, tokens, 108)
    monkeypatch.setattr("remask.lab.dependence.batch_of", lambda conditional, length: batch)
    after = measure(LAW, tokens, 108)
    assert torch.equal(before.points, after.points)
    assert all(torch.equal(a, b) for (_, x), (_, y) in zip(before.probes, after.probes) for a, b in zip(x, y))


# ---- lines through points --------------------------------------------------------------------------------------------


@few
@given(some.integers(2, 40), some.integers(0, 10**6))
def test_lines_are_those_of_numpy(length, seed):
    chance = np.random.default_rng(seed)
    visible = sorted(chance.choice(length, size=chance.integers(1, length + 1), replace=False).tolist())
    values = chance.normal(size=(2, len(visible)))
    expected = [np.interp(np.arange(length), visible, row) for row in values]
    assert np.allclose(spread(torch.from_numpy(values), visible, length), expected, atol=1e-12)


@few
@given(some.lists(some.floats(-5, 5), min_size=1, max_size=30))
def test_the_nearest_falling_curve_is_that_of_scipy(values):
    isotonic = pytest.importorskip(
        "scipy.optimize", reason="compared with scipy, of the extra [eval]"
    ).isotonic_regression
    expected = isotonic(values, increasing=False).x
    assert np.allclose(falling(torch.tensor(values, dtype=torch.float64)), expected, atol=1e-12)


def test_smooth_curves_keep_what_is_straight_and_lose_noise():
    line = torch.linspace(5.0, 1.0, 64, dtype=torch.float64)
    assert torch.allclose(smooth(line), line, atol=1e-12)
    short = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    assert smooth(short).tolist() == [3.0, 1.5, 1.5]
    bent = torch.exp(-torch.arange(64, dtype=torch.float64) / 20)
    noise = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.02
    curve = smooth(bent + noise)
    assert (curve.diff() <= 1e-12).all()
    assert float((curve.diff() - bent.diff()).std()) < float((falling(bent + noise).diff() - bent.diff()).std()) / 2


def test_points_hold_both_ends():
    for length in (1, 2, 3, 5, 17, 128, 512):
        found = points(length)
        assert found[0] == 0 and found[-1] == length - 1 and len(found) <= 17 and found == sorted(set(found))


def test_sizes_are_judged_by_rows_that_did_not_choose_them():
    """Curves of pure noise around a line: chosen and judged on the same rows, sizes would seem to gain."""
    line = torch.linspace(2.0, 1.0, 15, dtype=torch.float64)
    noise = torch.randn(2000, 8, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.3
    gains, seeming = [], []
    even = (5, 5, 5)
    for part in noise[:60]:
        curves = line + part
        sizes, lost = chosen(curves, 3)
        gains.append(float((schedule_loss(curves, even) - lost).mean()))
        seeming.append(float((schedule_loss(curves, even) - schedule_loss(curves, sizes)).mean()))
    error = np.std(gains) / len(gains) ** 0.5
    assert np.mean(gains) < 3 * error  # none: even sizes are the best of a line
    assert np.mean(seeming) > np.mean(gains) + 3 * error


def test_pairs_to_first_order():
    """A straight curve has exactly the loss of its pairs; a convex one less."""
    line = torch.tensor([3.0, 2.5, 2.0, 1.5], dtype=torch.float64)
    slope = torch.full((4,), 0.5)
    for sizes in ((4,), (2, 2), (1, 3), (1, 1, 1, 1)):
        assert pair_loss(slope, sizes) == pytest.approx(float(schedule_loss(line, sizes)))
    convex = torch.tensor([3.0, 2.0, 1.5, 1.25], dtype=torch.float64)
    assert pair_loss(-torch.cat([convex.diff(), convex.new_zeros(1)]), (4,)) > float(schedule_loss(convex, (4,)))


# ---- both together ---------------------------------------------------------------------------------------------------


def test_everything_at_once_on_a_chain():
    chain = markov(*correlation.random_chain(3, 2), 16)
    found = measure(chain, chain.sample(200, 1), 4 * 9 * 200)
    assert [masked for masked, _ in found.probes] == [16, 12, 8, 4]
    for masked, pairs in found.probes:
        pair, slope = pairs.within(1, 15), mean(found.slope(masked), "nats")
        assert abs(pair.value - slope.value) < 3 * math.hypot(pair.stderr, slope.stderr)
    assert len(found.information) == 16 and (found.information > 0).all()


def test_forward_passes_stay_within_the_budget():
    tokens = LAW.sample(10, 1)
    for passes in (0, 36, 100, 2000):
        watched = Watched(LAW, 10)
        measure(watched, tokens, passes)
        curve = 10 * len(points(4))
        spent = int(watched.ledger.calls.sum()) - curve
        assert spent <= passes and spent >= min(passes, 4 * (1 + CANDIDATES)) / 3


def test_a_budget_for_no_pair_is_refused():
    with pytest.raises(BadInput, match="--pairs came as 5: type 27 or more, or 0"):
        measure(LAW, LAW.sample(4, 1), 5)
    assert measure(LAW, LAW.sample(4, 1), 0).probes == []


def test_enumerated_chains_and_message_passing_agree():
    start, transition = correlation.random_chain(3, 4)
    law, chain = markov_chain(start, transition, 5), markov(start, transition, 5)
    tokens, stream = law.sample(20, 1), Stream.of(3, 20)
    ours = cross_entropy_curve(law, tokens, points(5), stream)
    assert torch.allclose(ours, cross_entropy_curve(chain, tokens, points(5), stream), atol=1e-12)
