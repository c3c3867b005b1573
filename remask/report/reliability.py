"""Whether a model is right as often as it is sure: a reliability diagram with the number of texts in every bin
(Guo et al. 2017, arXiv 1706.04599, fig. 1); and for numbers, predictions against labels.

Drawn by hand as inline SVG in the page's colours, so a report needs no drawing library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from remask.report.curves import padded
from remask.report.draw import figure
from remask.report.markup import escape
from remask.report.tables import number

SIDE, LEFT, TOP, BOTTOM, COUNTS = 300.0, 48.0, 30.0, 44.0, 64.0  # pixels: the square, its margins, the bars below it
MOST = 2000  # points of a scatter that are drawn
FONT = "font-size:11px;font-family:var(--sans,system-ui,sans-serif)"


class Bar(NamedTuple):
    """A bin of confidence (low, high]: its rows, their mean confidence and the share of them that is right."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def reliability(bars: Sequence[Bar], *, caption: str = "") -> str:
    """Accuracy against confidence with 95 % intervals (Wilson 1927), and below it the rows of each bin."""
    filled = [bar for bar in bars if bar.rows]
    alt = "Reliability: " + "; ".join(
        f"{bar.rows} texts at confidence {bar.confidence:.2f}, {bar.accuracy:.2f} right" for bar in filled
    )
    parts = [*_square("confidence", "Share that is right, by confidence", [0, 0.25, 0.5, 0.75, 1], 0.0, 1.0, COUNTS)]
    most = max((bar.rows for bar in bars), default=1) or 1
    base = TOP + SIDE + BOTTOM + COUNTS
    for bar in bars:
        middle = LEFT + SIDE * (bar.low + bar.high) / 2
        wide, tall = SIDE * (bar.high - bar.low) - 4, (COUNTS - 18) * bar.rows / most
        parts.append(
            f'<rect x="{middle - wide / 2:.1f}" y="{base - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
            'fill="var(--raw,#7d859066)"/>'
        )
        parts.append(_text(middle, base - tall - 7, f"{bar.rows:,}", "middle"))
    for bar in filled:
        x = LEFT + SIDE * bar.confidence
        low, high = wilson(bar.accuracy, bar.rows)
        parts.append(_line(x, _y(low), x, _y(high), "var(--accent,#4a86d8)", 1.5))
        parts.append(f'<circle cx="{x:.1f}" cy="{_y(bar.accuracy):.1f}" r="4" fill="var(--accent,#4a86d8)"/>')
    parts.append(_text(LEFT + SIDE / 2, base + 16, "texts in each bin", "middle"))
    return figure([_svg(LEFT + SIDE + 14, base + 26, f"{alt}.", parts)], caption, "chart one")


def scatter(predictions: Sequence[float], targets: Sequence[float], *, caption: str = "") -> str:
    """Predicted numbers against labels, with the line on which they agree; evenly thinned to some thousand points."""
    pairs = [(t, p) for t, p in zip(targets, predictions, strict=True) if math.isfinite(t) and math.isfinite(p)]
    if not pairs:
        return '<p class="note">There is no point to draw yet.</p>\n'
    low, high = padded(min(map(min, pairs)), max(map(max, pairs)))
    shown = pairs[:: len(pairs) // MOST + 1]
    ticks = [low + (high - low) * k / 4 for k in range(5)]
    parts = _square("label", "Prediction, by label", ticks, low, high, 0.0)
    for target, predicted in shown:
        x, y = LEFT + SIDE * (target - low) / (high - low), _y((predicted - low) / (high - low))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="var(--accent,#4a86d8)" fill-opacity="0.5"/>')
    alt = f"Predictions against labels, {len(pairs)} texts."
    return figure([_svg(LEFT + SIDE + 14, TOP + SIDE + BOTTOM, alt, parts)], caption, "chart one")


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a binomial share, inside [0, 1] for the smallest bins too (Wilson 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _square(along: str, title: str, ticks: Sequence[float], low: float, high: float, below: float) -> list[str]:
    """Title, rules, figures and the diagonal of a square whose two axes have one scale."""
    parts = [_text(0, 12, title, "start", "var(--ink,#7d8590)", "font-weight:bold;font-size:12px")]
    for tick in ticks:
        share = (tick - low) / (high - low)
        parts.append(_line(LEFT, _y(share), LEFT + SIDE, _y(share), "var(--line,#7d859055)", 1))
        parts.append(_text(LEFT - 8, _y(share), number(tick), "end"))
        parts.append(_text(LEFT + SIDE * share, TOP + SIDE + 14, number(tick), "middle"))
    parts.append(_text(LEFT + SIDE / 2, TOP + SIDE + 32, along, "middle"))
    parts.append(
        f'<line x1="{LEFT}" y1="{_y(0)}" x2="{LEFT + SIDE}" y2="{_y(1)}" stroke="var(--soft,#7d8590)" '
        'stroke-dasharray="4 3"/>'
    )
    return parts


def _y(share: float) -> float:
    return TOP + SIDE * (1 - share)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "var(--soft,#7d8590)", style: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central" fill="{colour}" '
        f'style="{FONT};{style}">{escape(text)}</text>'
    )


def _svg(wide: float, tall: float, alt: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {wide:g} {tall:g}" style="max-width:{wide:g}px" role="img" aria-label="{escape(alt)}">'
    return head + "\n" + "\n".join(parts) + "\n</svg>\n"
