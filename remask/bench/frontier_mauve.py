"""MAUVE of written texts against true ones (Pillutla et al. 2021, arXiv 2102.01454), where mauve-text is installed.

Both are sorted into the same few groups by what a net makes of them (here the scorer's state at the last token), and
the two histograms are compared along a curve of mixtures; 1 is the same, 0 apart. It grows with the number of texts, of
which the paper has 5,000, so that only systems with equally many compare. The library is under the GPL and hence no
part of an extra: `pip install mauve-text faiss-cpu`.
Shapes: R texts, S true ones, D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from torch import Tensor

from remask.core.metric import Estimate

FOLDS = 5  # of the texts; each is left out once, for an error


def mauve(written: Tensor, true: Tensor, seed: int = 0) -> Estimate | None:
    """MAUVE of states [R, D] and [S, D], its error by a jackknife over groups of texts; None without the library."""
    if find_spec("mauve") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from mauve import compute_mauve
    return _estimate(compute_mauve, written, true, seed)


def _estimate(compute: Callable[..., Any], written: Tensor, true: Tensor, seed: int) -> Estimate:
    ours, theirs = (x.float().cpu().numpy() for x in (written, true))

    def value(left_out: int | None) -> float:
        keep = [[k for k in range(len(x)) if k % FOLDS != left_out] for x in (ours, theirs)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = compute(p_features=theirs[keep[1]], q_features=ours[keep[0]], verbose=False, seed=seed)
        return float(found.mauve)

    folds = [value(fold) for fold in range(FOLDS)]
    middle = fmean(folds)
    error = math.sqrt((FOLDS - 1) / FOLDS * sum((one - middle) ** 2 for one in folds))
    return Estimate(value(None), error, "share", len(ours))
