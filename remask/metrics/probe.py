"""Linear probe: what a linear classifier reads off frozen features (Alain & Bengio 2016, arXiv 1610.01644).

Multinomial logistic regression with an L2 penalty; its strength is chosen by cross-validation on the training part, so
the test part is used once. Dense features are standardised; sparse ones (counts of tokens) are taken as they are, since
a unit variance would make the rarest tokens the loudest.
Shapes: N training rows, M test rows, D features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput, MissingExtra
from remask.core.metric import Estimate
from remask.metrics.agreement import classification

LAW = "of a linear classifier"
GRID = (0.001, 0.01, 0.1, 1.0, 10.0)
FOLDS = 3
ITERATIONS = 1000
MEASURES = ("accuracy", "macro_f1")


class Fitted(NamedTuple):
    """probabilities: of the test rows, [M, C]; inverse_penalty: the C that cross-validation chose."""

    probabilities: Tensor
    inverse_penalty: float


def probe(
    fit_features: Tensor,
    fit_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    grid: Sequence[float] = GRID,
) -> Iterator[tuple[str, Estimate]]:
    """`accuracy` and `macro_f1` on the test rows of a classifier fitted on the training rows.

    fit_features, test_features: [N, D] and [M, D], dense or sparse COO; fit_labels, test_labels: [N] and [M] int64;
    grid: inverse penalties, ascending.
    """
    yield from measures(fit(fit_features, fit_labels, test_features, grid=grid).probabilities, test_labels)


def measures(probabilities: Tensor, labels: Tensor) -> Iterator[tuple[str, Estimate]]:
    """What a probe is judged by: which class it calls, [M, C] and [M]; its penalty is not chosen for probabilities."""
    yield from ((name, found) for name, found in classification(probabilities, labels) if name in MEASURES)


def fit(train: Tensor, labels: Tensor, test: Tensor, *, grid: Sequence[float] = GRID) -> Fitted:
    """Fit on the training rows, and what it says of the test rows.

    Classes are 0..max(labels); one that training lacks has probability 0. Raises BadInput for labels of one class or
    features that are not finite, MissingExtra without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra("scikit-learn", "eval", "a linear probe") from error
    counts = torch.bincount(labels)
    if int((counts > 0).sum()) < 2:
        raise BadInput("a probe needs training rows of two classes or more; check which column is the label.")
    if int(counts.max()) < 2:
        raise BadInput("a probe needs a class with two training rows or more; check which column is the label.")
    regression = LogisticRegression(max_iter=ITERATIONS)
    steps = [regression] if train.is_sparse else [StandardScaler(), regression]
    folds = min(FOLDS, int(counts.max()))
    search = GridSearchCV(
        make_pipeline(*steps),
        {"logisticregression__C": list(grid)},
        cv=StratifiedKFold(folds, shuffle=True, random_state=0),
    )
    with warnings.catch_warnings():
        # weak penalties of separable data do not converge, and a class may have fewer rows than folds: both are fine
        warnings.simplefilter("ignore", UserWarning)
        search.fit(_matrix(train), labels.numpy())
        said = torch.from_numpy(search.predict_proba(_matrix(test)))
    probabilities = torch.zeros(len(said), len(counts), dtype=torch.float64)
    probabilities[:, torch.from_numpy(search.classes_)] = said.double()
    return Fitted(probabilities, float(search.best_params_["logisticregression__C"]))


def majority(labels: Tensor, rows: int) -> Tensor:
    """What to say without looking: the share of each class in the training labels, [rows, C]."""
    share = torch.bincount(labels).double() / len(labels)
    return share.expand(rows, -1)


def _matrix(features: Tensor) -> Any:
    """As scikit-learn takes it."""
    if not features.is_sparse:
        if not bool(features.isfinite().all()):
            raise BadInput("the features are not finite: the weights of the net have diverged, take another.")
        return features.double().numpy()
    from scipy.sparse import csr_matrix

    features = features.coalesce()
    row, column = features.indices().numpy()
    return csr_matrix((features.values().double().numpy(), (row, column)), shape=tuple(features.shape))
