"""Agreement of predictions with labels: accuracy, macro F1, Brier score; correlation of numbers.

Accuracy has the binomial standard error. Macro F1 is the mean of F1 = 2 tp / (2 tp + fp + fn) over the classes that
occur in the labels or the predictions (Opitz & Burst 2019, arXiv 1911.03347, the first of their two formulas), and its
standard error comes from resampling rows with a fixed seed (Efron 1979), and so do those of Pearson's and Spearman's
correlation: the closed forms (Fisher 1921; Bonett & Wright 2000) hold for normal pairs, and on the discrete laws of our
tests they cover half of the repeats where two thirds were promised. The Brier score is the mean of
sum_c (p_c - [c = label])^2 (Brier 1950).
Calibration: rows in bins of equal width of their confidence; the expected calibration error is the mean over rows of
|accuracy - confidence| of their bin (Guo et al. 2017, arXiv 1706.04599, eq. 3).
Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import stdev
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.metric import Estimate

LAW = "exact"
RESAMPLES = 400
LEAST = 1e-24  # of the mean square: less variance than this is none
BLOCK = 4_000_000  # numbers held at a time


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How often label i was called j, [C, C] int64; predicted, labels: [N] int64."""
    return torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes)


def macro_f1(table: Tensor) -> float:
    """Macro F1 of a confusion table [C, C], over the classes that occur in it."""
    return float(_f1(table[None, *table.nonzero(as_tuple=True)].double(), table.nonzero(), len(table)))


def _f1(counts: Tensor, cells: Tensor, classes: int) -> Tensor:
    """Macro F1 of tables that are given as counts [S, K] of their filled cells [K, 2], [S] float64."""
    label, called = cells.unbind(1)
    empty = counts.new_zeros(len(counts), classes)
    both = empty.index_add(1, label, counts).index_add(1, called, counts)  # 2 tp + fp + fn
    right = empty.index_add(1, label, counts * (label == called))
    return (2 * right / both.clamp(min=1)).sum(1) / (both > 0).sum(1).clamp(min=1)


def classification(probabilities: Tensor, labels: Tensor) -> Iterator[tuple[str, Estimate]]:
    """Accuracy, macro F1 and Brier score of class probabilities.

    probabilities: [N, C], rows sum to 1; labels: [N] int64. BadInput without rows.
    """
    n, classes = probabilities.shape
    if n == 0:
        raise BadInput("there are no rows to compare: give at least one.")
    predicted = probabilities.argmax(1)
    share = float((predicted == labels).double().mean())
    yield "accuracy", Estimate(share, math.sqrt(share * (1 - share) / n), "accuracy", n)
    table = confusion(predicted, labels, classes)
    yield "macro_f1", Estimate(macro_f1(table), _f1_error(table), "macro F1", n)
    truth = torch.nn.functional.one_hot(labels, classes)
    brier = (probabilities.double() - truth).square().sum(1)
    error = float(brier.std() / math.sqrt(n)) if n > 1 else math.nan
    yield "brier", Estimate(float(brier.mean()), error, "Brier score", n)


def _f1_error(table: Tensor) -> float:
    """Spread of macro F1 over tables whose rows were drawn again."""
    cells = table.nonzero()
    drawn = _resamples(table[table > 0].double(), int(table.sum()))
    return _error([value for counts in drawn for value in _f1(counts, cells, len(table)).tolist()])


def _resamples(weights: Tensor, n: int) -> Iterator[Tensor]:
    """How often each of K things comes in n draws by their weights, [S, K] float64; the same on every call."""
    generator = torch.Generator().manual_seed(0)
    size = max(1, min(RESAMPLES, BLOCK // n))
    for at in range(0, RESAMPLES, size):
        shape = (min(size, RESAMPLES - at), n)
        drawn = torch.multinomial(weights, shape[0] * n, replacement=True, generator=generator).view(shape)
        ones = torch.ones((), dtype=torch.float64).expand(shape)
        yield torch.zeros(shape[0], len(weights), dtype=torch.float64).scatter_add(1, drawn, ones)


def _error(values: Sequence[float]) -> float:
    """Their standard deviation, of those that exist; nan where fewer than two do."""
    kept = [value for value in values if math.isfinite(value)]
    return stdev(kept) if len(kept) > 1 else math.nan


def ranks(values: Tensor, times: Tensor) -> Tensor:
    """Ranks from 1 of values [N] that occur `times` [S, N] each; ties share their mean rank; [S, N] float64."""
    _, place = values.unique(return_inverse=True)
    counts = times.new_zeros(len(times), int(place.max()) + 1).index_add(1, place, times)
    return (counts.cumsum(1) - (counts - 1) / 2)[:, place]


def correlation(a: Tensor, b: Tensor, times: Tensor) -> Tensor:
    """Pearson's r of a and b [S or 1, N], row i counted `times` [S, N]; [S], nan where one of them does not vary."""
    n = times.sum(1, keepdim=True)
    least = [LEAST * (times * x * x).sum(1) for x in (a, b)]  # a constant's variance is rounding, not always 0
    a, b = (x - (times * x).sum(1, keepdim=True) / n for x in (a, b))
    aa, bb, ab = ((times * x).sum(1) for x in (a * a, b * b, a * b))
    return torch.where((aa > least[0]) & (bb > least[1]), ab / (aa * bb).sqrt(), math.nan).clamp(-1, 1)


def regression(predictions: Tensor, targets: Tensor) -> Iterator[tuple[str, Estimate]]:
    """Pearson's and Spearman's correlation of predictions with targets, [N] and [N]; nan where one does not vary."""
    n = len(targets)
    if n == 0:
        raise BadInput("there are no rows to compare: give at least one.")
    a, b = predictions.double(), targets.double()
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "pearson": lambda times: correlation(a[None], b[None], times),
        "spearman": lambda times: correlation(ranks(a, times), ranks(b, times), times),
    }
    for name, weigh in kinds.items():
        ones = torch.ones(n, dtype=torch.float64)
        again = [value for times in _resamples(ones, n) for value in weigh(times).tolist()]
        yield name, Estimate(float(weigh(ones[None])), _error(again), "correlation", n)


class Bin(NamedTuple):
    """Rows whose confidence (largest probability) lies in (low, high]: how many, mean confidence, share right."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


class Calibration(NamedTuple):
    """A reliability diagram: its bins, empty ones too, and the expected calibration error."""

    bins: tuple[Bin, ...]
    error: float


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Calibration:
    """Confidence against accuracy in bins of equal width; probabilities [N, C], labels [N]."""
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    rows = torch.bincount(place, minlength=bins)
    sure = torch.bincount(place, weights=confidence, minlength=bins) / rows.clamp(min=1)
    good = torch.bincount(place, weights=right, minlength=bins) / rows.clamp(min=1)
    found = [Bin(k / bins, (k + 1) / bins, int(rows[k]), float(sure[k]), float(good[k])) for k in range(bins)]
    return Calibration(tuple(found), float((rows * (sure - good).abs()).sum() / max(len(labels), 1)))
