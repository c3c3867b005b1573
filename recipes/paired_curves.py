"""Learning curves of several arms over paired seeds: intervals of differences, crossings, a table and a figure.

Arms of one seed saw the same data in the same order, so they are compared seed by seed: the interval is Student's, of
the n differences (two-sided, 95 %). Intervals are not corrected for their number. A curve is read between its points
along straight lines in the logarithm of what was spent, and nowhere outside them.
Shapes: none; a curve is a list of (spent, value) in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from remask.core.errors import MissingExtra

Curve = Sequence[tuple[float, float]]


class Interval(NamedTuple):
    """A mean over n seeds and its 95 % interval; nan bounds where n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def sure(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int = 3) -> str:
        """As mean [low, high]."""
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean of independent values (Student 1908)."""
    try:
        from scipy.stats import t
    except ImportError as error:
        raise MissingExtra("scipy", "eval", "intervals over seeds") from error
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
    half = float(t.ppf((1 + level) / 2, n - 1)) * spread
    return Interval(mean, mean - half, mean + half, n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """The interval of ours - theirs over the seeds that both have; None without one."""
    seeds = sorted(set(ours) & set(theirs))
    return interval([ours[s] - theirs[s] for s in seeds]) if seeds else None


def read(curve: Curve, spent: float) -> float | None:
    """The curve's value after `spent`; None outside its points."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 <= spent <= x1:
            return y0 + (y1 - y0) * math.log(spent / x0) / math.log(x1 / x0)
    return None


def reach(curve: Curve, level: float) -> float | None:
    """What was spent when the curve first came to `level`; None if it never did or began above it."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if y0 < level <= y1:
            return x0 * (x1 / x0) ** ((level - y0) / (y1 - y0))
    return None


class Panel(NamedTuple):
    """One panel of a figure: axis label, and for each arm its points (spent, interval of the value)."""

    label: str
    curves: Mapping[str, Sequence[tuple[float, Interval]]]


MARKS = "osD^vP*XhdpH<>"


def figure(panels: Sequence[Panel], levels: Mapping[str, float], ylabel: str, stem: Path) -> list[Path]:
    """Draw the panels side by side, with `levels` as dashed lines; writes STEM.png and STEM.svg."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "drawing curves") from error
    sheet = Figure(figsize=(5 * len(panels), 4.4), layout="constrained")
    FigureCanvasAgg(sheet)
    axes: Any = sheet.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    for axis, panel in zip(axes, panels):
        for number, name in enumerate(names):
            points = panel.curves.get(name, ())
            bars = [0.0 if math.isnan(value.low) else value.mean - value.low for _, value in points]
            axis.errorbar(
                [x for x, _ in points],
                [value.mean for _, value in points],
                bars,
                label=name,
                marker=MARKS[number % len(MARKS)],
                markersize=4,
                capsize=2,
                linewidth=1.2,
                color=f"C{number % 10}",
            )
        for name, level in levels.items():
            axis.axhline(level, linestyle="--", linewidth=0.8, color="0.5")
            axis.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize=7, color="0.4", va="bottom")
        axis.set(xscale="log", xlabel=panel.label)
        axis.xaxis.set_minor_formatter(NullFormatter())  # the labels of minor ticks would overlap
    axes[0].set_ylabel(ylabel)
    axes[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for path in paths:
        part = path.with_name(f".{path.name}.part")
        sheet.savefig(part, format=path.suffix[1:], dpi=150)
        part.replace(path)
    return paths


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
