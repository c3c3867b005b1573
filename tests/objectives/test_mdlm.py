"""MDLM: how many cells are masked, which, and what they weigh; the bound to the last digit."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch

from remask.core.errors import BadInput
from remask.core.objective import Batch
from remask.core.schedule import SCHEDULES
from remask.core.stream import Stream
from remask.objectives.mdlm import MDLM
from tests.oracle import LAWS, LawNet, masked_net

ORACLE = LAWS["ring_ising"]
LENGTH = ORACLE.length
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def question(objective, rows, seed=0, slots=None):
    batch = Batch.of(ORACLE.sample(rows, seed), ORACLE.alphabet)
    if slots is not None:
        batch = batch._replace(slot=torch.arange(rows) % slots, slots=slots)
    return objective.corrupt(batch, Stream.of(seed, rows))


# ---- count -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
def test_every_count_once_in_each_stratum(times):
    """L slots hold k = 1..L once each, and 3 L slots three times."""
    for seed in range(20):
        k = question(MDLM(), times * LENGTH, seed).at.sum(1)
        assert sorted(k.tolist()) == sorted(list(range(1, LENGTH + 1)) * times)


def test_strata_lie_over_the_global_batch_not_over_the_part():
    """Rows of different parts with different slots: together they hold every count once."""
    batch = Batch.of(ORACLE.sample(LENGTH, 0), ORACLE.alphabet)
    stream = Stream.of(0, LENGTH)
    parts = [torch.tensor([4, 0]), torch.tensor([2, 1, 3])]
    k = torch.cat([MDLM().corrupt(batch.part(i), stream.rows(i)).at.sum(1) for i in parts])
    assert sorted(k.tolist()) == list(range(1, LENGTH + 1))


def test_without_strata_counts_are_uniform_all_the_same():
    rows = 20_000
    counts = torch.bincount(question(MDLM(stratified=False), rows).at.sum(1), minlength=LENGTH + 1)
    assert counts[0] == 0
    expected = rows / LENGTH
    chi = float(((counts[1:] - expected) ** 2).sum() / expected)
    assert abs(chi - (LENGTH - 1)) < 4 * math.sqrt(2 * (LENGTH - 1))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_masked_subsets_are_uniform_given_their_size(k):
    at = question(MDLM(), 30_000).at
    found = Counter(tuple(torch.nonzero(row)[:, 0].tolist()) for row in at[at.sum(1) == k])
    subsets = list(combinations(range(LENGTH), k))
    expected = found.total() / len(subsets)
    chi = sum((found[s] - expected) ** 2 / expected for s in subsets)
    assert abs(chi - (len(subsets) - 1)) < 4 * math.sqrt(2 * (len(subsets) - 1))


def test_count_weighs_a_masked_cell_with_length_over_count():
    asked = question(MDLM(), 200)
    torch.testing.assert_close((asked.weight * asked.at).sum(1), torch.full((200,), float(LENGTH)))
    assert asked.counts.tolist() == [200 * LENGTH]


# ---- elbo ------------------------------------------------------------------------------------------------------------


@every_schedule
def test_elbo_weights_add_up_to_the_change_of_alpha(schedule):
    """E of weight times masked cells is L times the integral of -alpha', whatever the schedule."""
    objective = MDLM("elbo", schedule)
    rows, slots = 40_000, 400
    asked = question(objective, rows, slots=slots)
    row = (asked.weight.double() * asked.at).sum(1) / LENGTH
    group = row.view(-1, slots).mean(1)
    ends = torch.tensor([objective.smallest_time, 1.0], dtype=torch.float64)
    expected = float(-SCHEDULES[schedule].alpha(ends).diff())
    assert abs(float(group.mean()) - expected) < 3 * float(group.std()) / math.sqrt(len(group))


@every_schedule
def test_mask_rates_cover_their_strata(schedule):
    """The rate in stratum j lies between the rates at its edges: masked shares over many rows follow them."""
    slots = 10
    objective = MDLM("elbo", schedule)
    asked = question(objective, 40_000, slots=slots)
    share = asked.at.double().mean(1).view(-1, slots)
    edges = objective.smallest_time + (1 - objective.smallest_time) * torch.linspace(0, 1, slots + 1).double()
    rate = 1 - SCHEDULES[schedule].alpha(edges)
    error = 4 * share.std(0) / math.sqrt(len(share))
    assert (share.mean(0) > rate[:-1] - error).all()
    assert (share.mean(0) < rate[1:] + error).all()


def true_loss(objective, oracle, nodes=4000):
    """The loss of the true conditional, by quadrature over time: E w(t) E_rate sum of masked cross-entropies / L."""
    length, eps = oracle.length, objective.smallest_time
    edges = torch.logspace(math.log10(eps), 0, nodes + 1, dtype=torch.float64)  # 1/t: even steps of log t
    t, dt = (edges[1:] + edges[:-1]) / 2, edges.diff()
    schedule = SCHEDULES[objective.schedule]
    rate = 1 - schedule.alpha(t)
    masked = sum(
        math.comb(length, k) * rate**k * (1 - rate) ** (length - k) * oracle.masked_entropy(k)
        for k in range(1, length + 1)
    )
    return float((schedule.weight(t) * masked * dt).sum()) / length


@every_schedule
@pytest.mark.parametrize("oracle", LAWS.values(), ids=LAWS)
def test_the_elbo_leaves_out_next_to_nothing(schedule, oracle):
    """In closed form: smallest_time and log_linear's last thousandth cost less than 0.4 % of the entropy."""
    truth, loss = oracle.entropy / oracle.length, true_loss(MDLM("elbo", schedule), oracle)
    assert 0 < truth - loss < 0.004 * truth
    finer = true_loss(MDLM("elbo", schedule, smallest_time=1e-6), oracle)
    assert finer > loss
    if schedule != "log_linear":
        assert finer == pytest.approx(truth, rel=1e-5)


@every_schedule
def test_the_elbo_is_its_quadrature(schedule):
    """No allowance here: three standard errors around what the quadrature says."""
    objective, rows, means = MDLM("elbo", schedule), 128, []
    net = masked_net(ORACLE)
    for seed in range(150):
        asked = question(objective, rows, seed)
        means.append(float(objective(net, asked, Stream.of(seed, rows)).mean()))
    found = torch.tensor(means, dtype=torch.float64)
    assert abs(float(found.mean()) - true_loss(objective, ORACLE)) < 3 * float(found.std()) / math.sqrt(len(found))


# ---- flat, and what they share ---------------------------------------------------------------------------------------


def test_flat_is_the_mean_over_masked_cells():
    objective = MDLM("flat")
    asked = question(objective, 64)
    assert asked.counts.tolist() == [int(asked.at.sum())]
    assert not objective.bounds
    assert MDLM("count").bounds
    assert MDLM("elbo").bounds
    nats = -ORACLE(asked.tokens, asked.at).gather(1, asked.targets[asked.at][:, None])
    loss = objective(masked_net(ORACLE), asked, Stream.of(0, 64))
    assert float(loss.mean()) == pytest.approx(float(nats.mean()), rel=1e-6)


@pytest.mark.parametrize("weighting", ["count", "elbo", "flat"])
def test_the_head_sees_masked_cells_only_and_never_says_mask(weighting):
    """Speed rule 1; and a net that shouts 'mask' loses nothing, because that id is banned."""

    told = []

    class Shouts(LawNet):
        def total_nll(self, hidden_at, targets, weight, ban=None):
            told.append(len(hidden_at))
            hidden_at = hidden_at.index_fill(1, torch.tensor([ORACLE.alphabet.mask]), 50.0)
            return super().total_nll(hidden_at, targets, weight, ban)

    objective = MDLM(weighting)
    asked, stream = question(objective, 32), Stream.of(0, 32)
    net = Shouts(ORACLE)
    loud = objective(net, asked, stream).terms[0].total
    assert told == [int(asked.at.sum())]
    torch.testing.assert_close(loud, objective(masked_net(ORACLE), asked, stream).terms[0].total)
    assert torch.equal(asked.tokens == ORACLE.alphabet.mask, asked.at)


def spread(objective, oracle, groups=150, rows=24):
    """Variance over masks of the mean loss of the same rows."""
    tokens, net, values = oracle.sample(rows, 0), masked_net(oracle), []
    for seed in range(groups):
        stream = Stream.of(seed, rows)
        asked = objective.corrupt(Batch.of(tokens, oracle.alphabet), stream)
        values.append(float(objective(net, asked, stream).mean()))
    return float(torch.tensor(values, dtype=torch.float64).var())


def test_exact_counts_and_strata_vary_less():
    """What the fields promise, by factors that 150 repeats do not show by chance (F = 1.4 is three sigma)."""
    assert spread(MDLM("count"), ORACLE) * 1.5 < spread(MDLM("elbo"), ORACLE)
    # one masked cell of a parity costs nothing, four cost three bits: strata even that out
    parity = LAWS["parity"]
    assert spread(MDLM("count"), parity) * 1.5 < spread(MDLM("count", stratified=False), parity)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weighting": "mean"},
        {"schedule": "quadratic"},
        {"smallest_time": 1.0},
        {"smallest_time": -0.1},
        {"smallest_time": math.nan},
    ],
)
def test_fields_that_make_no_sense(wrong):
    with pytest.raises(BadInput):
        MDLM(**wrong)


def test_no_time_at_all_is_masked_without_a_fault():
    """smallest_time 0 is allowed: rows without any masked cell ask nothing."""
    asked = question(MDLM("elbo", smallest_time=0.0), 500)
    empty = ~asked.at.any(1)
    assert empty.any()
    part = asked._replace(**{name: getattr(asked, name)[empty] for name in asked._fields[:5]})
    loss = MDLM("elbo")(masked_net(ORACLE), part, Stream.of(0, int(empty.sum())))
    assert float(loss.terms[0].total) == 0
