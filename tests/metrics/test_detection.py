"""Detection: the area under the curve against scikit-learn's, and errors against repeats."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.metrics.detection import auc, detection, share

laws = settings(deadline=None, database=None, max_examples=100)


def sample(n, seed, apart=1.0, rate=0.2, coarse=None):
    """Normal scores, those of replaced tokens moved; rounded where there are to be ties."""
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(n, generator=generator) < rate
    scores = torch.randn(n, generator=generator, dtype=torch.float64) + apart * replaced
    return (scores if coarse is None else (scores * coarse).round() / coarse), replaced


def by_pairs(scores, replaced):
    fakes, reals = scores[replaced][:, None], scores[~replaced]
    return float(((fakes > reals).double() + 0.5 * (fakes == reals)).mean())


@laws
@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([None, 0.5, 2.0]))
def test_the_area_is_the_share_of_pairs_in_order(seed, n, coarse):
    scores, replaced = sample(n, seed, coarse=coarse, rate=0.4)
    estimate = auc(scores, replaced)
    if replaced.all() or not replaced.any():
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.stderr)
    else:
        assert estimate.value == pytest.approx(by_pairs(scores, replaced), abs=1e-12)
        assert auc(-scores, replaced).value == pytest.approx(1 - estimate.value, abs=1e-12)
        assert auc(torch.exp(scores), replaced).value == pytest.approx(estimate.value, abs=1e-12), "ranks alone count"
    assert estimate.n == n


@pytest.mark.parametrize("coarse", [None, 10.0, 1.0, 0.3])
def test_the_area_is_scikit_learns(coarse):
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        scores, replaced = sample(5000, seed, coarse=coarse)
        theirs = metrics.roc_auc_score(replaced.numpy(), scores.numpy())
        assert auc(scores, replaced).value == pytest.approx(theirs, abs=1e-12)
        assert auc(scores.float(), replaced).value == pytest.approx(theirs, abs=1e-6)


def test_ends_and_ties():
    replaced = torch.tensor([True, True, False, False, False])
    assert auc(torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0]), replaced)[:2] == (1.0, 0.0)
    assert auc(torch.zeros(5), replaced).value == 0.5
    assert math.isnan(auc(torch.randn(4), torch.tensor([True, False, False, False])).stderr), "one tells no spread"
    assert auc(torch.tensor([math.inf, 0.0, -math.inf, -math.inf, 0.0]), replaced).value == pytest.approx(5.5 / 6)


@pytest.mark.parametrize("apart", [0.0, 1.0, 2.5])
def test_the_error_is_the_spread_over_repeats(apart):
    """Within a tenth of the truth, for good detectors too: 400 repeats know a spread to 3.5 %."""
    found = [auc(*sample(300, seed, apart)) for seed in range(400)]
    spread = float(torch.tensor([e.value for e in found]).std())
    said = math.sqrt(sum(e.stderr**2 for e in found) / len(found))
    assert 0.88 < said / spread < 1.12
    truth = 0.5 * (1 + math.erf(apart / 2))
    mean = sum(e.value for e in found) / len(found)
    assert abs(mean - truth) < 4 * spread / math.sqrt(len(found))
    binomial = math.sqrt(sum(e.value * (1 - e.value) / e.n for e in found) / len(found))
    assert apart > 2 or binomial < 0.8 * spread, "the planted bug: the binomial error of all tokens"


def test_shares_are_counts():
    scores = torch.tensor([2.0, -1.0, 3.0, 1.0, -2.0, 0.0])
    replaced = torch.tensor([True, True, True, False, False, False])
    found = dict(detection(scores, replaced))
    assert list(found) == ["detection_auc", "recall_of_replaced", "precision_of_replaced", "share_replaced"]
    assert found["recall_of_replaced"].value == pytest.approx(2 / 3)
    assert found["precision_of_replaced"].value == pytest.approx(2 / 3)
    assert found["share_replaced"].value == 0.5
    assert [e.n for e in found.values()] == [6, 3, 3, 6], "a half is not above a half"
    assert found["recall_of_replaced"].stderr == pytest.approx(math.sqrt(2 / 27))
    assert found["detection_auc"].unit == "auc"


def test_nothing_said_and_nothing_there():
    quiet = dict(detection(torch.full((4,), -1.0), torch.tensor([True, False, False, False])))
    assert quiet["recall_of_replaced"].value == 0
    assert math.isnan(quiet["precision_of_replaced"].value)
    assert math.isnan(share(torch.zeros(0, dtype=torch.bool), "share").stderr)
    real = dict(detection(torch.randn(4), torch.zeros(4, dtype=torch.bool)))
    assert math.isnan(real["detection_auc"].value)
    assert math.isnan(real["recall_of_replaced"].value)
    assert real["share_replaced"].value == 0
