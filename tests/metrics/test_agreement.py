"""Agreement: against scikit-learn and scipy, against closed forms, and standard errors that keep their promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from remask.core.errors import BadInput
from remask.metrics.agreement import calibration, classification, confusion, correlation, macro_f1, ranks, regression

labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def certain(predicted, classes):
    return torch.nn.functional.one_hot(predicted, classes).double()


@settings(deadline=None, max_examples=60)
@given(labels)
def test_classification_agrees_with_scikit_learn(pairs):
    truth, predicted = torch.tensor(pairs).unbind(1)
    found = dict(classification(certain(predicted, 5), truth))
    assert found["accuracy"].value == pytest.approx(accuracy_score(truth, predicted))
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert found["brier"].value == pytest.approx(2 * float((truth != predicted).double().mean()))
    assert confusion(predicted, truth, 5).tolist() == confusion_matrix(truth, predicted, labels=range(5)).tolist()


def test_a_class_that_never_occurs_does_not_count():
    few = torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert macro_f1(few) == pytest.approx((6 / 7 + 4 / 5) / 2)
    assert macro_f1(few[:2, :2]) == macro_f1(few) != pytest.approx((6 / 7 + 4 / 5) / 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_correlations_agree_with_scipy(pairs):
    a, b = torch.tensor(pairs).double().unbind(1)
    found = dict(regression(a / 7, b * 1e3 + 1))
    if len(a.unique()) < 2 or len(b.unique()) < 2:
        assert all(math.isnan(e.value) for e in found.values())
        return
    assert found["pearson"].value == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert ranks(a, torch.ones(1, len(a)).double())[0].tolist() == stats.rankdata(a).tolist()


def test_a_row_that_counts_twice_is_two_rows():
    a, b = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)).double()
    times = torch.tensor([[2.0, 1, 0, 3, 1, 1, 0, 1, 2]]).double()
    again = times[0].long()
    aa, bb = a.repeat_interleave(again), b.repeat_interleave(again)
    assert float(correlation(a[None], b[None], times)) == pytest.approx(stats.pearsonr(aa, bb).statistic)
    weighed = correlation(ranks(a, times), ranks(b, times), times)
    assert float(weighed) == pytest.approx(stats.spearmanr(aa, bb).statistic)


def test_standard_errors_on_normal_pairs_are_the_closed_forms():
    n, rho = 2000, 0.6
    x, noise = torch.randn(2, n, generator=torch.Generator().manual_seed(1)).double()
    y = rho * x + math.sqrt(1 - rho * rho) * noise
    found = dict(regression(x, y))
    assert found["pearson"].stderr == pytest.approx((1 - rho**2) / math.sqrt(n - 3), rel=0.15)  # Fisher 1921
    known = (1 - rho**2) * math.sqrt((1 + rho**2 / 2) / (n - 3))  # Bonett & Wright 2000
    assert found["spearman"].stderr == pytest.approx(known, rel=0.15)


def test_the_error_of_accuracy_is_binomial():
    truth = torch.tensor([0] * 30 + [1] * 70)
    found = dict(classification(certain(torch.zeros(100, dtype=torch.int64), 2), truth))
    assert found["accuracy"] == (0.3, math.sqrt(0.3 * 0.7 / 100), "accuracy", 100)
    assert dict(classification(certain(truth, 2), truth))["macro_f1"].stderr == 0


def test_the_same_rows_give_the_same_errors():
    probabilities = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    truth = torch.arange(50) % 3
    torch.manual_seed(5)
    first = dict(classification(probabilities, truth))
    torch.manual_seed(6)
    assert dict(classification(probabilities, truth)) == first


def test_calibration_of_a_model_that_knows_itself_and_of_one_that_boasts():
    generator = torch.Generator().manual_seed(0)
    sure = 0.5 + 0.5 * torch.rand(20_000, generator=generator).double()
    right = torch.rand(20_000, generator=generator).double() < sure
    probabilities = torch.stack([sure, 1 - sure], 1)
    truth = (~right).long()
    honest = calibration(probabilities, truth)
    assert honest.error < 0.01
    assert sum(b.rows for b in honest.bins) == 20_000 and [b.rows for b in honest.bins[:5]] == [0] * 5
    assert all(b.low < b.confidence <= b.high and abs(b.confidence - b.accuracy) < 0.04 for b in honest.bins if b.rows)
    boasting = calibration(torch.stack([torch.ones(20_000), torch.zeros(20_000)], 1), truth)
    assert boasting.error == pytest.approx(1 - float(right.double().mean()))
    assert boasting.bins[-1].rows == 20_000


def test_nothing_to_compare():
    with pytest.raises(BadInput, match="no rows"):
        next(classification(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(BadInput, match="no rows"):
        next(regression(torch.zeros(0), torch.zeros(0)))
