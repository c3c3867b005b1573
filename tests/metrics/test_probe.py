"""Linear probes: separable data, noise, and scikit-learn asked directly."""

import sys

import numpy as np
import pytest
import torch

from remask.core.errors import BadInput, MissingExtra
from remask.metrics import probe as module
from remask.metrics.agreement import classification
from remask.metrics.probe import GRID, fit, majority, probe


def blobs(n, seed, spread=1.0, classes=3):
    """Points around one corner for each class; features of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    corners = 4 * torch.eye(classes, 5)
    points = corners[labels] + spread * torch.randn(n, 5, generator=generator)
    return points * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0]) + 7, labels


def test_separable_points_are_told_apart():
    found = dict(probe(*blobs(150, 0, 0.3), *blobs(100, 1, 0.3)))
    assert found["accuracy"].value == found["macro_f1"].value == 1
    assert found["accuracy"].n == 100


def test_labels_of_chance_give_chance():
    points, _ = blobs(400, 0)
    labels = torch.randint(0, 2, (800,), generator=torch.Generator().manual_seed(5))
    found = dict(probe(points, labels[:400], blobs(400, 1)[0], labels[400:]))["accuracy"]
    assert abs(found.value - 0.5) < 3 * found.stderr + 0.02
    assert 0.02 < found.stderr < 0.03


def test_agrees_with_scikit_learn():
    """The same classifier by another road: scale by hand, each penalty by cross_val_score, fit again."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (points, labels), (asked, truth) = blobs(200, 0, 2.5), blobs(300, 1, 2.5)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    makes = {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in GRID}
    scores = {c: cross_val_score(make, points.double(), labels, cv=folds).mean() for c, make in makes.items()}
    best = max(scores, key=scores.get)
    found = fit(points, labels, asked)
    assert found.inverse_penalty == best
    theirs = makes[best].fit(points.double(), labels).predict_proba(asked.double())
    np.testing.assert_allclose(found.probabilities, theirs, atol=1e-6)
    share = (theirs.argmax(1) == truth.numpy()).mean()
    assert dict(probe(points, labels, asked, truth))["accuracy"].value == pytest.approx(share)


def test_the_test_part_is_not_looked_at():
    """Its rows change nothing but their own predictions."""
    (points, labels), (asked, _) = blobs(60, 0, 2.0), blobs(40, 1, 2.0)
    whole = fit(points, labels, asked)
    other = fit(points, labels, torch.cat([asked[:5], 1e6 * asked[5:]]))
    assert torch.equal(whole.probabilities[:5], other.probabilities[:5])
    assert whole.inverse_penalty == other.inverse_penalty


def test_without_standardising_the_large_feature_would_drown_the_small(monkeypatch):
    """The planted twin: the class is in a feature a hundred thousand times smaller than the noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300,), generator=generator)
    points = torch.stack([labels * 1e-3 + 1e-4 * torch.randn(300, generator=generator), 100 * torch.randn(300)], 1)
    right = dict(probe(points[:200], labels[:200], points[200:], labels[200:]))["accuracy"].value
    assert right == 1
    monkeypatch.setattr("sklearn.preprocessing.StandardScaler.transform", lambda self, X, copy=None: X)
    monkeypatch.setattr("sklearn.preprocessing.StandardScaler.fit_transform", lambda self, X, y=None, **rest: X)
    assert dict(probe(points[:200], labels[:200], points[200:], labels[200:]))["accuracy"].value < 0.8


def test_sparse_counts_are_taken_as_they_are():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((120, 30), 0.3), generator=generator)
    labels = (counts[:, 0] + counts[:, 1] > 0.5).long()
    found = fit(counts[:80].to_sparse(), labels[:80], counts[80:].to_sparse())
    theirs = LogisticRegression(C=found.inverse_penalty, max_iter=1000).fit(counts[:80].double(), labels[:80])
    np.testing.assert_allclose(found.probabilities, theirs.predict_proba(counts[80:].double()), atol=1e-4)


def test_a_class_that_training_lacks_has_no_probability():
    points, labels = blobs(60, 0, classes=2)
    found = fit(points, 3 * labels, points).probabilities
    assert found.shape == (60, 4)
    assert not found[:, 1:3].any()
    torch.testing.assert_close(found.sum(1), torch.ones(60, dtype=torch.float64))


def test_a_rare_class_is_no_error():
    points, labels = blobs(61, 0, classes=2)
    labels[60] = 2  # one row of it: fewer than folds
    assert fit(points, labels, points).probabilities.shape == (61, 3)


def test_majority():
    labels = torch.tensor([0, 1, 1, 1])
    assert majority(labels, 2).tolist() == [[0.25, 0.75]] * 2
    found = dict(classification(majority(labels, 4), torch.tensor([1, 1, 0, 1])))
    assert found["accuracy"].value == 0.75


@pytest.mark.parametrize(
    ("labels", "features", "said"),
    [
        ([1, 1, 1], torch.rand(3, 2), "two classes"),
        ([0, 1, 2], torch.rand(3, 2), "two training rows"),
        ([0, 1, 1], torch.full((3, 2), torch.nan), "not finite"),
    ],
)
def test_what_cannot_be_fitted(labels, features, said):
    with pytest.raises(BadInput, match=said):
        fit(features, torch.tensor(labels), features)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtra, match=r"remask\[eval\]"):
        module.fit(*blobs(20, 0), blobs(20, 1)[0])
