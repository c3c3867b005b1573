"""The bound of a masked model: two estimators of one number, and what they do with padding and single rows."""

import math

import pytest
import torch

from remask.core.errors import BadInput
from remask.core.stream import Stream
from remask.metrics.nelbo import ESTIMATORS, SMALLEST_TIME, draws_of_rows, nelbo
from tests.oracle import LAWS, Watched

ORACLE = LAWS["random_table"]
LENGTH = ORACLE.length


def per_row_bound(oracle):
    """The bound of each state in closed form: sum over k of the mean over k-subsets of cross-entropies / k, [S]."""
    from itertools import combinations

    nats = torch.zeros(len(oracle.states), dtype=torch.float64)
    for k in range(1, oracle.length + 1):
        subsets = list(combinations(range(oracle.length), k))
        for subset in subsets:
            at = torch.zeros_like(oracle.states, dtype=torch.bool)
            at[:, list(subset)] = True
            log_prob = oracle(torch.where(at, oracle.alphabet.mask, oracle.states), at)
            own = -log_prob.gather(1, oracle.states[at][:, None]).view(len(at), k)
            nats += own.sum(1) / k / len(subsets)
    return nats


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_row_gets_its_own_bound(estimator):
    """Row by row, not only on average: 60 rows, 600 draws each, |z| below 4.5 and z about standard."""
    tokens, draws = ORACLE.sample(60, 0), 600
    values = draws_of_rows(ORACLE, tokens, Stream.of(1, 60), draws=draws, estimator=estimator)
    truth = per_row_bound(ORACLE)[ORACLE.number(tokens)]
    z = (values.mean(1) - truth) / (values.std(1) / math.sqrt(draws))
    assert z.abs().max() < 4.5
    assert z.square().mean() < 1.5, "strata make the error smaller than independent draws would, never larger"


def test_the_bound_of_a_row_lies_above_its_surprise_only_on_average():
    """By Jensen: the mean of -log p over random orders is -log p for exact conditionals."""
    finite = ORACLE.joint > 0
    torch.testing.assert_close(per_row_bound(ORACLE)[finite], -ORACLE.joint[finite].log())


def test_the_estimators_agree():
    found = {
        e: next(iter(nelbo(ORACLE, ORACLE.sample(3000, 2), Stream.of(3, 3000), estimator=e)))[1] for e in ESTIMATORS
    }
    a, b = found["count"], found["time"]
    # the same rows: what they disagree in is masks only, which is less than either's error
    assert abs(a.value - b.value) < 3 * math.hypot(a.stderr, b.stderr)
    assert a.stderr < b.stderr, "exact counts vary less"


def test_draws_cover_the_noise_levels_evenly():
    """L draws of one row hold every count once."""
    watched = Watched(ORACLE, 1)
    counts = []

    class Seen:
        alphabet, visible = ORACLE.alphabet, ORACLE.visible

        def __call__(self, tokens, at=None):
            counts.extend(at.sum(1).tolist())
            return watched(tokens, at)

        def rows(self, index):
            return self

        def given(self, tokens, upto):
            return self

    draws_of_rows(Seen(), ORACLE.sample(1, 0), Stream.of(0, 1), draws=LENGTH)
    assert sorted(counts) == list(range(1, LENGTH + 1))
    assert watched.ledger.calls.item() == LENGTH


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_row_does_not_depend_on_its_batch(estimator):
    tokens, stream = ORACLE.sample(30, 4), Stream.of(4, 30)
    whole = draws_of_rows(ORACLE, tokens, stream, estimator=estimator)
    small = draws_of_rows(ORACLE, tokens, stream, estimator=estimator, batch=7)
    assert torch.equal(whole, small)
    index = torch.tensor([21, 5])
    assert torch.equal(draws_of_rows(ORACLE, tokens[index], stream.rows(index), estimator=estimator), whole[index])


def test_cells_left_out_are_never_masked_and_never_counted():
    """With the last cell given, the bound is that of the rest given it: H(x) - H(last)."""
    tokens = ORACLE.sample(4000, 5)
    among = torch.ones_like(tokens, dtype=torch.bool)
    among[:, -1] = False

    class Holds:
        alphabet, visible = ORACLE.alphabet, ORACLE.visible

        def __call__(self, asked, at=None):
            assert (asked[:, -1] != ORACLE.alphabet.mask).all()
            assert not at[:, -1].any()
            return ORACLE(asked, at)

        def rows(self, index):
            return self

        def given(self, tokens, upto):
            return self

    found = dict(nelbo(Holds(), tokens, Stream.of(6, 4000), among=among))["nats_per_token"]
    last = torch.stack([ORACLE.joint[ORACLE.states[:, -1] == i].sum() for i in ORACLE.ids])
    truth = (ORACLE.entropy + float(torch.xlogy(last, last).sum())) / (LENGTH - 1)
    assert abs(found.value - truth) < 3 * found.stderr
    nothing = torch.zeros_like(among)
    assert not draws_of_rows(ORACLE, tokens[:5], Stream.of(0, 5), among=nothing[:5]).any()


def test_one_row_gets_its_error_from_its_draws():
    tokens = ORACLE.sample(1, 7)
    found = dict(nelbo(ORACLE, tokens, Stream.of(8, 1), draws=800))["nats_per_token"]
    truth = float(per_row_bound(ORACLE)[ORACLE.number(tokens)]) / LENGTH
    assert found.n == 800
    assert 0 < abs(found.value - truth) < 3 * found.stderr < 0.2 * truth


def test_what_the_time_estimator_leaves_out_is_nothing():
    assert SMALLEST_TIME <= 1e-4


def test_an_unknown_estimator_lists_the_known():
    with pytest.raises(BadInput, match=r"--estimator count\|time"):
        draws_of_rows(ORACLE, ORACLE.sample(1, 0), Stream.of(0, 1), estimator="guess")


def test_one_row_has_all_units_too():
    oracle = LAWS["markov_chain"]
    rows = oracle.sample(1, 0)
    found = dict(nelbo(oracle, rows, Stream.of(0, 1), bytes=torch.tensor([7]), draws=16))
    nats = found["nats_per_token"].value * oracle.length
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2) / 7)
    assert found["bits_per_byte"].n == 16
