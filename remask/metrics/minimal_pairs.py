"""Minimal pairs: how often a model scores the good sentence of a pair above the bad one.

The pairs of BLiMP (Warstadt et al. 2020, arXiv 1912.00582) differ in one point of grammar, and its figure is the mean
over kinds of pairs. Whole sentences are compared by their log scores, not divided by their lengths; a tie counts one
half, so that a model which cannot tell gets 0.5.
Shapes: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from remask.core.errors import BadInput, Diverged
from remask.core.metric import Estimate, ratio

LAW = "of pairs"
UNIT = "share of pairs"


def preferences(good: Tensor, bad: Tensor) -> Tensor:
    """1 where the good sentence scores higher, 0 where the bad one does, 1/2 for a tie, [P] float64.

    Raises Diverged for scores that are no numbers: they would all look like mistakes.
    """
    if good.shape != bad.shape or good.dim() != 1 or not len(good):
        raise BadInput(f"pairs need as many good as bad scores, not {tuple(good.shape)} and {tuple(bad.shape)}.")
    if bool((good.isnan() | bad.isnan()).any()):
        raise Diverged("a sentence has a score that is no number: the weights have diverged, train the net again.")
    return torch.where(good == bad, 0.5, (good > bad).double()).double()


def minimal_pairs(good: Tensor, bad: Tensor, *, kinds: Sequence[str] | None = None) -> Iterator[tuple[str, Estimate]]:
    """`accuracy` over pairs and, given the kind of each pair, `accuracy_macro`: the mean over kinds.

    good, bad: log scores of the sentences, [P]. Standard errors are over pairs; the kinds are taken as they are, not
    as a sample of kinds.
    """
    yield "accuracy", _mean(preferences(good, bad).tolist())
    if kinds is not None:
        each = list(by_kind(good, bad, kinds).values())
        value = math.fsum(e.value for e in each) / len(each)
        stderr = math.sqrt(math.fsum(e.stderr**2 for e in each)) / len(each)
        yield "accuracy_macro", Estimate(value, stderr, f"mean over {len(each)} kinds", len(good))


def by_kind(good: Tensor, bad: Tensor, kinds: Sequence[str]) -> dict[str, Estimate]:
    """The accuracy on each kind of pairs, the kinds in the order in which they come."""
    if len(kinds) != len(good):
        raise BadInput(f"{len(good)} pairs came with {len(kinds)} kinds: give one for each pair.")
    wins: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind, won in zip(kinds, preferences(good, bad).tolist()):
        wins[kind].append(won)
    return {kind: _mean(won) for kind, won in wins.items()}


def _mean(won: list[float]) -> Estimate:
    return ratio(won, [1.0] * len(won), UNIT)
