"""The survey of a frontier: every system of a field weighed and timed once, and held against others at its own entropy.

Quality does not depend on the batch and is weighed once for all of them, and once for a system with and without an
exact cache, which changes no text. Shapes: none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from remask.bench.frontier_field import Field
from remask.bench.frontier_quality import Judge, Point, Quality, at_entropy, loss, quality
from remask.bench.frontier_speed import Speed, timed
from remask.bench.frontier_systems import Plan, System, baselines, systems, write_texts
from remask.core.metric import Estimate

AT_ONCE = 16  # texts that are weighed are written so many at a time
DIGITS = 6


class Settings(NamedTuple):
    """plan: what is tried; temperatures: of the baseline; batches: that are timed; texts: that are weighed; patience:
    seconds after which a system gets no further round."""

    plan: Plan
    temperatures: Sequence[float]
    batches: Sequence[int]
    texts: int
    rounds: int
    patience: float
    seed: int


class Curves(NamedTuple):
    """What rows are held against: the baseline by temperature; a checkpoint's exact sampler likewise, and its calls."""

    baseline: list[Point]
    exact: list[Point]
    calls: float | None


class Survey:
    """Weighs and times the systems of a field, each once."""

    def __init__(self, asked: Settings, field: Field, judge: Judge, clock: Callable[[], float]):
        self.asked, self.field, self.judge, self.clock = asked, field, judge, clock
        self.weighed: dict[tuple[Any, ...], Quality] = {}
        self.speeds: dict[tuple[Any, ...], Speed] = {}

    def rows(self, length: int) -> Iterator[dict[str, Any]]:
        """Of one length."""
        yield from self._reference(length)
        mine = baselines(self.field, self.asked.temperatures, length)
        raced = next((one for one in mine if one.temperature == 1), mine[0])
        curve = [self._point(one, length) for one in mine]
        for one in mine:
            yield from self._rows(one, raced, length, Curves(curve, [], None))
        for name, model in self.field.models.items():
            every = systems(name, model, self.asked.plan, length)
            exact = list({one.quality_key: one for one in every if one.exact}.values())  # a cache changes no text
            calls = self._quality(exact[0], length).calls.value if exact else None
            curves = Curves(curve, [self._point(one, length) for one in exact], calls)
            for one in every:
                yield from self._rows(one, raced, length, curves)

    def _reference(self, length: int) -> Iterator[dict[str, Any]]:
        found = self.judge.reference(self.asked.texts, length, self.asked.seed)
        if found is None:
            return
        name, written, path = found
        nothing = {"batch": None, **dict.fromkeys(NUMBERS), **dict.fromkeys(TIMES)}
        weighed = quality(written, path, self.judge)
        row = {
            **{"arm": name, "what": "not written by a net", "sampler": "none", "budget": None, "unit": None},
            **{"temperature": None, "cache": None, "path": path, "length": length},
        }
        yield _rounded({**row, **nothing, **self._measured(weighed)})

    def _quality(self, system: System, length: int) -> Quality:
        key = length, *system.quality_key
        if key not in self.weighed:
            asked, device = self.asked, self.field.device
            written = write_texts(system.write, length, asked.texts, asked.seed, AT_ONCE, device)
            self.weighed[key] = quality(written, system.path, self.judge)
        return self.weighed[key]

    def _point(self, system: System, length: int) -> Point:
        found = self._quality(system, length).measures
        return Point(found["entropy"], found[self.judge.name])

    def _speed(self, system: System, baseline: System, length: int, batch: int) -> Speed:
        key = length, batch, *system.time_key
        if key not in self.speeds:
            how: dict[str, Any] = {
                "rounds": self.asked.rounds,
                "patience": self.asked.patience,
                "seed": self.asked.seed,
            }
            self.speeds[key] = timed(system, baseline, length, batch, **how, device=self.field.device, clock=self.clock)
        return self.speeds[key]

    def _rows(self, system: System, baseline: System, length: int, curves: Curves) -> Iterator[dict[str, Any]]:
        weighed = self._quality(system, length)
        numbers = {
            "calls": weighed.calls.value,
            "calls_stderr": weighed.calls.stderr,
            "calls_most": weighed.most,
            "tokens_per_call": length / weighed.calls.value,
            "calls_over_exact": curves.calls and curves.calls / weighed.calls.value,
        }
        names = ("arm", "what", "sampler", "budget", "unit", "temperature", "cache", "path")
        matched = compared(self._point(system, length), curves)
        for batch in self.asked.batches:
            speed = self._speed(system, baseline, length, batch)
            row = {name: getattr(system, name) for name in names} | {"length": length, "batch": batch}
            yield _rounded(row | numbers | speed.json() | self._measured(weighed) | matched)

    def _measured(self, weighed: Quality) -> dict[str, Any]:
        """All measures, each with its error; those that are not known are None."""
        found: dict[str, Any] = {"quality": weighed.measures[self.judge.name].value}
        for name in (self.judge.name, "divergence", "written_entropy", "entropy", "distinct_2", "repetition", "mauve"):
            found |= _named(name, weighed.measures.get(name))
        return found | dict.fromkeys(MATCHED)


NUMBERS = ("calls", "calls_stderr", "calls_most", "tokens_per_call", "calls_over_exact")
TIMES = tuple(Speed((1.0,), (1.0,), 1).json())
MATCHED = tuple(
    f"{name}{end}"
    for name in ("baseline_at_entropy", "loss", "exact_at_entropy", "loss_over_exact")
    for end in ("", "_stderr")
)


def compared(point: Point, curves: Curves) -> dict[str, Any]:
    """A system against the baseline, and against the exact sampler of its net, at its own unigram entropy."""
    found: dict[str, Any] = {}
    for name, lost, curve in (
        ("baseline_at_entropy", "loss", curves.baseline),
        ("exact_at_entropy", "loss_over_exact", curves.exact),
    ):
        reference = at_entropy(curve, point.entropy)
        found |= _named(name, reference) | _named(lost, reference and loss(point.value, reference))
    return found


def _named(name: str, estimate: Estimate | None) -> dict[str, Any]:
    return {name: estimate and estimate.value, f"{name}_stderr": estimate and estimate.stderr}


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """The same with few digits, and None for what is no number."""
    return {name: _short(value) if isinstance(value, float) else value for name, value in row.items()}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
