"""Calibration of forecasts: whether what is given probability p happens a share p of the time.

The Brier score is the mean of sum_c (p_c - [c happened])^2 (Brier 1950), and its skill is the share by which it is
below that of a forecaster who knows only how often each thing happens: 1 = certain and right, 0 = no better than that.
Reliability pools all forecasts in bins of equal width of p (Murphy & Winkler 1977); the calibration error is the mean
over forecasts of |share that happened - mean p| of their bin. Forecasts about one text are not independent, so standard
errors are over texts.
Shapes: M forecasts, C things that may happen (1 for yes or no), G texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio
from remask.metrics.agreement import Bin, Calibration

LAW = "exact"


def forecasts(probability: Tensor, happened: Tensor, groups: Tensor) -> Iterator[tuple[str, Estimate]]:
    """Brier score, its skill, and the pooled calibration error.

    probability: [M, C] in [0, 1]; happened: [M, C] bool; groups: [M] int64, the text of each forecast.
    BadInput without forecasts, or for numbers that are no probabilities.
    """
    if len(probability) == 0:
        raise BadInput("there are no forecasts to weigh: give at least one.")
    if not ((probability >= 0) & (probability <= 1 + 1e-6)).all():  # NaN too
        raise BadInput("forecasts came that are not all probabilities: give numbers from 0 to 1.")
    p, truth = probability.double(), happened.double()
    off, usual = (p - truth).square().sum(1), (truth.mean(0) - truth).square().sum(1)
    brier, plain = by_text(off, groups, "Brier score"), float(usual.mean())
    yield "brier", brier
    if plain > 0:
        share = by_text(1 - off / plain, groups, "share of the Brier score of base rates")
        yield "brier_skill", share
    yield "calibration_error", Estimate(reliability(p, happened).error, math.nan, "probability", brier.n)


def by_text(values: Tensor, groups: Tensor, unit: str) -> Estimate:
    """The mean of values [M], with its standard error over the texts [M] that they are of."""
    _, place = groups.unique(return_inverse=True)
    texts = int(place.max()) + 1
    totals = torch.zeros(texts, dtype=torch.float64, device=values.device).index_add(0, place, values.double())
    return ratio(totals.tolist(), torch.bincount(place, minlength=texts).double().tolist(), unit)


def reliability(probability: Tensor, happened: Tensor, bins: int = 10) -> Calibration:
    """Mean forecast against the share that happened, in bins of equal width; both of one shape, any.

    A bin's `confidence` is the mean probability in it, its `accuracy` the share that happened.
    """
    p, truth = probability.double().flatten(), happened.double().flatten()
    place = ((p * bins).ceil().long() - 1).clamp(0, bins - 1)
    rows = torch.bincount(place, minlength=bins)
    mean = torch.bincount(place, weights=p, minlength=bins) / rows.clamp(min=1)
    share = torch.bincount(place, weights=truth, minlength=bins) / rows.clamp(min=1)
    found = [Bin(k / bins, (k + 1) / bins, int(rows[k]), float(mean[k]), float(share[k])) for k in range(bins)]
    return Calibration(tuple(found), float((rows * (mean - share).abs()).sum() / max(len(p), 1)))
