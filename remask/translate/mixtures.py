"""Mixtures: does an output put together words that no single translation of its source holds together?

A source has several translations, and tokens that are written at once may each follow another one: "vielen schön" out
of "vielen Dank" and "danke schön" (the multimodality problem: Gu et al. 2018, arXiv 1711.02281; an error mode of
parallel refinement: Li et al. 2024, arXiv 2407.21046). It is measured against known alternatives, be it the references
of a source that stands in a corpus with several targets, or the hypotheses of a teacher's beam. H(a) are the
alternatives in which token a stands.

    seam      two neighbours a, b of the output, each known (H(a), H(b) not empty), that no alternative holds both:
              H(a) and H(b) are disjoint. Of two alternatives, one has a only and the other b only. Their bigram is then
              in no alternative
    mixture   an output whose known tokens no one alternative holds all. Every output with a seam is one, and so is one
              that changes from alternative to alternative behind tokens that these share

Neither asks for order or number: stutters and inversions are faults of other kinds. An alternative itself is never a
mixture, tokens that no alternative has are never counted, and a source with fewer than two alternatives says nothing,
so its output is left out.

People's own translations are mixtures by this definition as well, since the alternatives at hand are never all there
are. How often, the floor says: each reference in turn is held out and weighed against the others of its source. An
output is comparable with it where it is weighed against the same others, and so it is for the `matched` rates. Both
want three alternatives. The figures depend on what a token is, a word or a piece of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio

Source = TypeVar("Source", bound=Hashable)
Target = TypeVar("Target", bound=Hashable)

Tokens = Sequence[Hashable]
Alternatives = Sequence[Tokens]


def alternatives(pairs: Iterable[tuple[Source, Target]]) -> dict[Source, list[Target]]:
    """The distinct targets of every source, all in the order in which they first come; (source, target) pairs."""
    found: dict[Source, dict[Target, None]] = {}
    for source, target in pairs:
        found.setdefault(source, {})[target] = None
    return {source: list(targets) for source, targets in found.items()}


def holders(output: Tokens, known: Alternatives) -> list[frozenset[int]]:
    """H of every token: the numbers of the alternatives in which it stands."""
    held = [frozenset(alternative) for alternative in known]
    return [frozenset(number for number, tokens in enumerate(held) if token in tokens) for token in output]


def seams(output: Tokens, known: Alternatives) -> list[bool]:
    """Which neighbours of an output of n tokens are seams, max(n - 1, 0) of them."""
    found = holders(output, known)
    return [bool(left and right) and left.isdisjoint(right) for left, right in pairwise(found)]


def mixed(output: Tokens, known: Alternatives) -> bool:
    """Whether an output is a mixture."""
    found = [held for held in holders(output, known) if held]
    return bool(found) and not frozenset.intersection(*found)


class Counted(NamedTuple):
    """Faults of outputs and the places where they could be, one number each for every output."""

    faults: list[float]
    places: list[float]

    def rate(self) -> Estimate:
        """Faults a place, standard error over outputs; 0 where there are no places."""
        if not any(self.places):
            return Estimate(0.0, 0.0, "share", len(self.places))
        return ratio(self.faults, self.places, "share")

    def above(self, floor: Counted) -> Estimate:
        """By how much the rate is above another one of the same sources."""
        if not any(self.places) or not any(floor.places):
            return Estimate(0.0, 0.0, "share", len(self.places))
        return difference(self, floor, "share")


def mixture_rate(outputs: Sequence[Tokens], known: Sequence[Alternatives]) -> Estimate:
    """Share of outputs that are mixtures, of those whose sources have two alternatives or more.

    known: the alternatives of each output's source. Raises BadInput where there is no such output, or numbers differ.
    """
    return _counted(_mixed, _among(outputs, known, 2)).rate()


def seam_rate(outputs: Sequence[Tokens], known: Sequence[Alternatives]) -> Estimate:
    """Share of neighbours that are seams, in the same outputs; raises as `mixture_rate`."""
    return _counted(_seams, _among(outputs, known, 2)).rate()


def mixtures(outputs: Sequence[Tokens], known: Sequence[Alternatives]) -> Iterator[tuple[str, Estimate]]:
    """mixture_rate and seam_rate; and of the sources with three alternatives or more, if there are any, for each:

    _matched: the output's, weighed against all alternatives but one, mean over which one; _floor: that one's, weighed
    against the same; _excess: their difference, paired by source. The floor does not depend on the outputs.
    Raises as `mixture_rate`.
    """
    some, many = _among(outputs, known, 2), _among(outputs, known, 3, least=0)
    for name, count in COUNTS.items():
        yield f"{name}_rate", _counted(count, some).rate()
        if many:
            ours, floor = _held_out(count, many)
            yield f"{name}_matched", ours.rate()
            yield f"{name}_floor", floor.rate()
            yield f"{name}_excess", ours.above(floor)


def difference(first: Counted, second: Counted, unit: str) -> Estimate:
    """Ratio of sums less another one, of the same n things, with the delta-method error of both together.

    Exact where all places are 1: the standard error of a mean paired difference. Each needs a place that is not 0.
    """
    n, value, spread = len(first.places), 0.0, [0.0] * len(first.places)
    for sign, (faults, places) in ((1.0, first), (-1.0, second)):
        rate, count = ratio(faults, places, unit).value, math.fsum(places)
        value += sign * rate
        spread = [s + sign * (f - rate * p) / count for s, f, p in zip(spread, faults, places)]
    error = math.sqrt(math.fsum(s * s for s in spread) * n / (n - 1)) if n > 1 else math.nan
    return Estimate(value, error, unit, n)


# ---- counting --------------------------------------------------------------------------------------------------------

Count = Callable[[Tokens, Alternatives], tuple[float, float]]


def _mixed(output: Tokens, known: Alternatives) -> tuple[float, float]:
    return float(mixed(output, known)), 1.0


def _seams(output: Tokens, known: Alternatives) -> tuple[float, float]:
    found = seams(output, known)
    return float(sum(found)), float(len(found))


COUNTS: dict[str, Count] = {"mixture": _mixed, "seam": _seams}
"""Faults of an output and the places where they could be."""


def _among(
    outputs: Sequence[Tokens], known: Sequence[Alternatives], fewest: int, least: int = 1
) -> list[tuple[Tokens, Alternatives]]:
    """Outputs with so many distinct alternatives, and these."""
    if len(outputs) != len(known):
        raise BadInput(
            f"{len(outputs)} translations came with alternatives of {len(known)} sources: give some for each."
        )
    distinct: list[Alternatives] = [list(dict.fromkeys(map(tuple, those))) for those in known]
    found = [(output, those) for output, those in zip(outputs, distinct) if len(those) >= fewest]
    if len(found) < least:
        raise BadInput(f"none of {len(outputs)} sources has two translations to mix: give sources with alternatives.")
    return found


def _counted(count: Count, among: Iterable[tuple[Tokens, Alternatives]]) -> Counted:
    faults, places = zip(*(count(output, known) for output, known in among))
    return Counted(list(faults), list(places))


def _held_out(count: Count, among: Iterable[tuple[Tokens, Alternatives]]) -> tuple[Counted, Counted]:
    """Of outputs, and of what is held out, against the same others: means over the alternatives of a source."""
    ours, floor = Counted([], []), Counted([], [])
    for output, known in among:
        rest = [[*known[:number], *known[number + 1 :]] for number in range(len(known))]
        for mine, texts in ((ours, [output] * len(known)), (floor, known)):
            found = _counted(count, zip(texts, rest))
            mine.faults.append(math.fsum(found.faults) / len(known))
            mine.places.append(math.fsum(found.places) / len(known))
    return ours, floor
