"""Forecasts: closed forms, an independent implementation, and standard errors that are those of repeats."""

import math
import statistics

import pytest
import torch

from remask.core.errors import BadInput
from remask.metrics.agreement import calibration, classification
from remask.metrics.calibration import by_text, forecasts, reliability


def drawn(n, seed, wrong=0.0):
    """Forecasts p of events that happen with probability p + wrong, [n, 1] each."""
    generator = torch.Generator().manual_seed(seed)
    p = 0.1 + 0.6 * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return p, torch.rand(n, 1, generator=generator, dtype=torch.float64) < p + wrong


def test_four_forecasts_by_hand():
    p, happened = torch.tensor([[0.9], [0.6], [0.2], [0.0]]), torch.tensor([[True], [False], [False], [False]])
    out = dict(forecasts(p, happened, torch.arange(4)))
    assert out["brier"].value == pytest.approx((0.01 + 0.36 + 0.04 + 0) / 4)
    assert out["brier_skill"].value == pytest.approx(1 - out["brier"].value / (0.25 * 0.75))
    assert out["calibration_error"].value == pytest.approx((0.1 + 0.6 + 0.2 + 0) / 4)
    assert out["brier"].n == 4


def test_sure_and_right_has_all_the_skill_and_base_rates_have_none():
    happened = torch.tensor([[True], [False], [False], [True], [False]])
    groups = torch.arange(5)
    assert dict(forecasts(happened.double(), happened, groups))["brier_skill"].value == 1
    usual = torch.full((5, 1), 0.4, dtype=torch.float64)
    assert dict(forecasts(usual, happened, groups))["brier_skill"].value == pytest.approx(0)
    assert "brier_skill" not in dict(forecasts(usual, torch.ones(5, 1, dtype=torch.bool), groups))


def test_against_the_score_of_classes():
    generator = torch.Generator().manual_seed(0)
    p, labels = torch.rand(60, 4, generator=generator).softmax(1), torch.randint(0, 4, (60,), generator=generator)
    out = dict(forecasts(p, torch.nn.functional.one_hot(labels, 4).bool(), torch.arange(60)))
    theirs = dict(classification(p, labels))["brier"]
    assert out["brier"].value == pytest.approx(theirs.value)
    assert out["brier"].stderr == pytest.approx(theirs.stderr)


def test_bins_of_sure_forecasts_are_those_of_confidence():
    """Where the yes is always the likelier answer, its probability is the confidence."""
    p = 0.5 + 0.5 * torch.rand(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    happened = torch.rand(200, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) < p
    both = torch.cat([1 - p, p], 1)
    theirs, ours = calibration(both, happened[:, 0].long()), reliability(p, happened)
    assert ours.error == pytest.approx(theirs.error)
    assert [b.rows for b in ours.bins] == [b.rows for b in theirs.bins]


def test_every_forecast_is_in_one_bin_the_edges_too():
    p = torch.tensor([0.0, 0.1, 0.1000001, 0.5, 1.0], dtype=torch.float64)
    bins = reliability(p, torch.ones(5)).bins
    assert [b.rows for b in bins] == [2, 1, 0, 0, 1, 0, 0, 0, 0, 1]


def test_calibrated_forecasts_have_little_error_and_wrong_ones_have_theirs():
    good = dict(forecasts(*drawn(20_000, 3), torch.arange(20_000)))
    bad = dict(forecasts(*drawn(20_000, 3, wrong=0.2), torch.arange(20_000)))
    assert good["calibration_error"].value < 0.02
    assert bad["calibration_error"].value == pytest.approx(0.2, abs=0.02)
    # E (p - y)^2 = E p (1 - p) for calibrated p, uniform on [0.1, 0.7]
    expected = statistics.fmean(x * (1 - x) for x in [0.1 + 0.6 * (k + 0.5) / 1000 for k in range(1000)])
    assert good["brier"].value == pytest.approx(expected, abs=3 * good["brier"].stderr)


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_the_standard_error_is_over_texts(share):
    """Forecasts of a text that repeat each other tell nothing new; those that do not, do."""
    means, errors = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        of_text = torch.rand(30, generator=generator, dtype=torch.float64)
        each = torch.rand(30, 8, generator=generator, dtype=torch.float64)
        values = share * of_text[:, None] + (1 - share) * each
        estimate = by_text(values.flatten(), torch.arange(30).repeat_interleave(8), "things")
        means.append(estimate.value)
        errors.append(estimate.stderr)
        assert estimate.n == 30
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(means), rel=0.2)
    as_if_independent = math.sqrt(1 / 12 / 240)  # the planted mistake: every forecast a text of its own
    assert (abs(as_if_independent / statistics.stdev(means) - 1) < 0.2) == (share == 0.0)


def test_texts_of_many_prefixes_weigh_as_many():
    estimate = by_text(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([5, 5, 5, 9]), "things")
    assert estimate.value == 0.75
    assert estimate.n == 2


@pytest.mark.parametrize("p", [torch.zeros(0, 1), torch.tensor([[1.5]]), torch.tensor([[math.nan]])])
def test_what_is_no_forecast_is_refused(p):
    with pytest.raises(BadInput):
        list(forecasts(p, torch.ones_like(p).bool(), torch.arange(len(p))))
