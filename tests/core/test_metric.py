"""Estimates: a ratio's standard error against the bootstrap and against repetition."""

import math

import numpy as np
import pytest

from remask.core.metric import Estimate, exponential, ratio


def pairs(n, seed):
    """Totals that grow with their counts, as nats do with tokens."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 40, n).astype(float)
    return counts * 1.7 + rng.normal(0, 3, n), counts


def test_value_and_error_equal_the_textbook():
    totals, counts = pairs(50, 0)
    found = ratio(totals.tolist(), counts.tolist(), "nats/token")
    value = totals.sum() / counts.sum()
    residual = totals - value * counts
    error = math.sqrt(residual.var(ddof=1) / 50) / counts.mean()
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.stderr == pytest.approx(error, rel=1e-12)
    assert (found.unit, found.n) == ("nats/token", 50)


def test_equal_counts_give_the_standard_error_of_a_mean():
    x = np.random.default_rng(1).normal(2, 1, 30)
    found = ratio(x.tolist(), [1.0] * 30, "")
    assert found.stderr == pytest.approx(x.std(ddof=1) / math.sqrt(30), rel=1e-12)


def test_error_agrees_with_the_bootstrap():
    totals, counts = pairs(400, 2)
    rng = np.random.default_rng(3)
    index = rng.integers(0, 400, (4000, 400))
    bootstrap = (totals[index].sum(1) / counts[index].sum(1)).std()
    assert ratio(totals.tolist(), counts.tolist(), "").stderr == pytest.approx(bootstrap, rel=0.06)


def covered(estimate, repeats=400):
    """Share of repeats whose value lies within one standard error of the truth (1.7)."""
    found = [estimate(*(x.tolist() for x in pairs(60, 1000 + i))) for i in range(repeats)]
    return sum(abs(e.value - 1.7) <= e.stderr for e in found) / repeats


def mean_of_ratios(totals, counts):
    """The planted bug: rows weigh alike, however long they are."""
    x = np.array(totals) / np.array(counts)
    return Estimate(float(x.mean()), float(x.std() / math.sqrt(len(x)) / 3), "", len(x))


def test_error_is_calibrated_and_a_wrong_one_is_not():
    assert covered(lambda t, c: ratio(t, c, "")) == pytest.approx(0.683, abs=0.07)
    assert abs(covered(mean_of_ratios) - 0.683) > 0.2


def test_one_pair_has_no_error():
    found = ratio([3.0], [2.0], "")
    assert found.value == 1.5
    assert math.isnan(found.stderr)


def test_exponential_is_the_delta_method():
    found = exponential(Estimate(1.2, 0.01, "nats", 9), "perplexity")
    assert found.value == pytest.approx(math.exp(1.2))
    assert found.stderr == pytest.approx((math.exp(1.21) - math.exp(1.19)) / 2, rel=1e-3)
    assert (found.unit, found.n) == ("perplexity", 9)
    assert found.json() == {"value": found.value, "stderr": found.stderr, "unit": "perplexity", "n": 9}
