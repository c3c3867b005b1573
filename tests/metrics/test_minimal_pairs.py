"""Minimal pairs: who wins, what a tie is worth, and how sure the shares are."""

import math

import numpy as np
import pytest
import torch

from remask.core.errors import BadInput, Diverged
from remask.metrics.minimal_pairs import by_kind, minimal_pairs, preferences


def scores(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_who_wins_and_ties_count_half():
    assert preferences(scores(-1, -2, -3), scores(-2, -2, -1)).tolist() == [1, 0.5, 0]
    never = scores(-math.inf, -math.inf)
    assert preferences(never, scores(-math.inf, -5)).tolist() == [0.5, 0]


def test_the_shares_and_their_errors_by_hand():
    """Kind a: 3 of 4; kind b: 1/2 of 2 (one tie, one win, in halves 0.75)."""
    good, bad = scores(2, 2, 2, 0, 1, 5), scores(1, 1, 1, 1, 1, 1)
    kinds = ["a", "a", "a", "a", "b", "b"]
    each = by_kind(good, bad, kinds)
    assert list(each) == ["a", "b"]
    assert each["a"].value == 0.75
    assert each["a"].stderr == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)
    assert (each["b"].value, each["b"].n) == (0.75, 2)
    found = dict(minimal_pairs(good, bad, kinds=kinds))
    wins = [1, 1, 1, 0, 0.5, 1]
    assert found["accuracy"].value == pytest.approx(np.mean(wins))
    assert found["accuracy"].stderr == pytest.approx(np.std(wins, ddof=1) / math.sqrt(6))
    assert found["accuracy_macro"].value == pytest.approx(0.75)
    assert found["accuracy_macro"].stderr == pytest.approx(math.hypot(each["a"].stderr, each["b"].stderr) / 2)
    assert (found["accuracy"].n, found["accuracy_macro"].n) == (6, 6)
    assert list(dict(minimal_pairs(good, bad))) == ["accuracy"]


def test_kinds_weigh_the_same_however_many_pairs_they_have():
    good = torch.cat([torch.ones(90), torch.zeros(10)])
    found = dict(minimal_pairs(good, torch.full((100,), 0.5), kinds=["big"] * 90 + ["small"] * 10))
    assert found["accuracy"].value == pytest.approx(0.9)
    assert found["accuracy_macro"].value == pytest.approx(0.5)
    assert found["accuracy_macro"].stderr == 0


def test_the_errors_are_those_of_repeats():
    """The spread of 400 repeats is what one of them says of itself, for both figures."""
    rng = np.random.default_rng(0)
    chances = torch.tensor([0.9] * 60 + [0.5] * 20 + [0.3] * 20)
    kinds = ["a"] * 60 + ["b"] * 20 + ["c"] * 20
    repeats = [dict(minimal_pairs(chances, torch.from_numpy(rng.random(100)).float(), kinds=kinds)) for _ in range(400)]
    for name, truth in {"accuracy": 0.7, "accuracy_macro": 1.7 / 3}.items():
        values = np.array([r[name].value for r in repeats])
        said = np.mean([r[name].stderr for r in repeats])
        assert abs(values.mean() - truth) < 4 * values.std() / 20
        # "accuracy" takes the mixture of kinds for luck as well, so it says a little too much, never too little
        assert 0.9 < said / values.std(ddof=1) < 1.3, name


def test_scores_that_are_no_numbers_are_no_mistakes_of_the_net():
    with pytest.raises(Diverged, match="no number"):
        dict(minimal_pairs(scores(1, math.nan), scores(0, 0)))


@pytest.mark.parametrize(("good", "bad"), [((1, 2), (1,)), ((), ())])
def test_what_are_no_pairs(good, bad):
    with pytest.raises(BadInput):
        preferences(scores(*good), scores(*bad))
    with pytest.raises(BadInput, match="give one for each pair"):
        by_kind(scores(1, 2), scores(0, 0), ["a"])
