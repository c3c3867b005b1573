"""Faults of translations, counted: stutters, and lengths that were predicted wrongly.

Tokens that are written at once do not know of each other, so neighbours come out equal more often than in texts (Li et
al. 2024, arXiv 2407.21046, error modes; Gu et al. 2018, arXiv 1711.02281, the multimodality problem). References repeat
tokens too: their rate is told beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio


def stutter_rate(rows: Sequence[Sequence[int]]) -> Estimate:
    """Share of neighbouring tokens that are equal, over all neighbours of all rows; 0 where there are none."""
    pairs = [max(len(row) - 1, 0) for row in rows]
    equal = [sum(left == right for left, right in pairwise(row)) for row in rows]
    if not any(pairs):
        return Estimate(0.0, 0.0, "share", len(rows))
    return ratio([float(n) for n in equal], [float(n) for n in pairs], "share")


def length_faults(predicted: Sequence[int], true: Sequence[int]) -> Iterator[tuple[str, Estimate]]:
    """length_exact and length_within_1 (shares), length_error (mean of predicted - true) and its size, in tokens."""
    _paired(predicted, true)
    errors = [float(p - t) for p, t in zip(predicted, true)]
    ones = [1.0] * len(errors)
    yield "length_exact", ratio([float(e == 0) for e in errors], ones, "share")
    yield "length_within_1", ratio([float(abs(e) <= 1) for e in errors], ones, "share")
    yield "length_error", ratio(errors, ones, "tokens")
    yield "length_error_size", ratio([abs(e) for e in errors], ones, "tokens")


def faults(
    outputs: Sequence[Sequence[int]], references: Sequence[Sequence[int]], lengths: Sequence[int]
) -> Iterator[tuple[str, Estimate]]:
    """stutter_rate, reference_stutter_rate, and those of `length_faults`.

    outputs, references: text tokens; lengths: cells that were decoded for each output. Raises BadInput for none, or
    where their numbers differ.
    """
    _paired(outputs, references)
    yield "stutter_rate", stutter_rate(outputs)
    yield "reference_stutter_rate", stutter_rate(references)
    yield from length_faults(lengths, [len(row) for row in references])


def _paired(outputs: Sequence[object], references: Sequence[object]) -> None:
    if len(outputs) != len(references) or not outputs:
        raise BadInput(f"{len(outputs)} translations came with {len(references)} references: give one for each.")
