"""Replaced-token detection: how well real and replaced tokens are told apart.

Few tokens are replaced, so accuracy says nothing: the area under the ROC curve with its error (DeLong, DeLong &
Clarke-Pearson 1988; Sun & Xu 2014 by ranks), and recall and precision on the replaced ones where p(replaced) is above a
half (Clark et al. 2020, arXiv 2003.10555, give the task).
Shapes: N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from remask.core.metric import Estimate

LAW = "score"


def _ranks(values: Tensor) -> Tensor:
    """From 1 on, the mean rank where values are equal, [N] float64."""
    ordered, order = values.double().sort()
    _, place, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    mean = counts.cumsum(0) - (counts - 1) / 2
    return torch.empty_like(ordered).scatter_(0, order, mean[place].double())


def auc(scores: Tensor, replaced: Tensor) -> Estimate:
    """Chance that a replaced token scores above a real one (ties count half), with DeLong's error."""
    fakes, reals = scores[replaced], scores[~replaced]
    if not len(fakes) or not len(reals):
        return Estimate(math.nan, math.nan, "auc", len(replaced))
    rank = _ranks(scores)
    above = (rank[replaced] - _ranks(fakes)) / len(reals)  # the share of reals that each fake beats
    below = 1 - (rank[~replaced] - _ranks(reals)) / len(fakes)  # the share of fakes that beat each real
    area = float(above.mean())
    if min(len(fakes), len(reals)) < 2:
        return Estimate(area, math.nan, "auc", len(replaced))
    error = math.sqrt(float(above.var()) / len(fakes) + float(below.var()) / len(reals))
    return Estimate(area, error, "auc", len(replaced))


def share(hits: Tensor, unit: str) -> Estimate:
    """Mean of a bool tensor with its binomial error."""
    n = len(hits)
    value = float(hits.double().mean()) if n else math.nan
    return Estimate(value, math.sqrt(value * (1 - value) / n) if n else math.nan, unit, n)


def detection(scores: Tensor, replaced: Tensor) -> Iterator[tuple[str, Estimate]]:
    """detection_auc, recall_of_replaced, precision_of_replaced, share_replaced.

    scores: [N], logits of "replaced"; replaced: [N] bool.
    """
    said = scores > 0
    yield "detection_auc", auc(scores, replaced)
    yield "recall_of_replaced", share(said[replaced], "share")
    yield "precision_of_replaced", share(replaced[said], "share")
    yield "share_replaced", share(replaced, "share")
