"""Estimate: a number that knows how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """A measured value with its standard error, unit and number of independent observations."""

    value: float
    stderr: float
    unit: str
    n: int

    def json(self) -> dict[str, float | int | str]:
        """As a plain dictionary."""
        return {"value": self.value, "stderr": self.stderr, "unit": self.unit, "n": self.n}


Metric = Callable[..., Iterator[tuple[str, Estimate]]]
"""A metric yields named estimates."""


def ratio(totals: list[float], counts: list[float], unit: str) -> Estimate:
    """Sum of totals over sum of counts, with the delta-method standard error over the (total, count) pairs."""
    n = len(totals)
    count = math.fsum(counts)
    value = math.fsum(totals) / count
    if n < 2:
        return Estimate(value, math.nan, unit, n)
    spread = math.fsum((total - value * c) ** 2 for total, c in zip(totals, counts))
    return Estimate(value, math.sqrt(spread * n / (n - 1)) / count, unit, n)


def exponential(estimate: Estimate, unit: str) -> Estimate:
    """exp of an estimate (nats to perplexity), standard error by the delta method."""
    value = math.exp(estimate.value)
    return Estimate(value, value * estimate.stderr, unit, estimate.n)


def finite(value: Any) -> Any:
    """The same value with None for what JSON has no number for: the standard error of a single row is nan."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
