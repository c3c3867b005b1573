"""MAUVE with its error: texts of one law are close, those of others are not; without the library there is none."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from remask.bench import frontier_mauve
from remask.bench.frontier_mauve import FOLDS, _estimate, mauve

installed = pytest.mark.skipif(
    importlib.util.find_spec("mauve") is None, reason="mauve-text is not installed (it is under the GPL, so no extra)"
)


def states(rows, shift=0.0, seed=0):
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)) + shift


@installed
def test_one_law_is_close_and_another_is_not():
    same, other = mauve(states(200), states(200, seed=1)), mauve(states(200), states(200, 3.0, seed=1))
    assert same.value > 0.9
    assert 0 < other.value < 0.1
    assert 0 <= same.stderr < 0.1
    assert same.n == 200


def test_without_the_library_there_is_none(monkeypatch):
    monkeypatch.setattr(frontier_mauve, "find_spec", lambda name: None)
    assert mauve(states(4), states(4)) is None


def test_the_error_is_that_of_a_jackknife():
    """For a mean it is the usual standard error of the mean of group means."""

    def compute(*, p_features, q_features, verbose, seed):
        assert not verbose
        assert seed == 7
        return SimpleNamespace(mauve=q_features.mean() - p_features.mean())

    written, true = states(20), torch.zeros(20, 8)
    found = _estimate(compute, written, true, 7)
    groups = torch.stack([written[fold::FOLDS].mean() for fold in range(FOLDS)])
    assert found.value == pytest.approx(float(written.mean()), abs=1e-6)
    assert found.stderr == pytest.approx(float(groups.std() / FOLDS**0.5), rel=1e-4)
