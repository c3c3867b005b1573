"""Curves and dot charts as inline SVG that follows the page's colours.

matplotlib draws with stand-in colours; the SVG is then cleaned (no metadata, no ids that could collide, text left as
text in the reader's own font) and each stand-in becomes a CSS variable with a mid-contrast fallback, so one drawing
serves light, dark and paper. The same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from remask.report.draw import ACCENT, INK, LINE, RAW, SOFT, Sheet, figure, spread
from remask.report.tables import number, plus_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 400, 270  # pixels of one panel at its natural size
MOST = 600  # points of the loss that are drawn; a long run is thinned after smoothing
LOSS = "Training loss, nats per token"
LABEL = 15.0  # pixels from one label to the next


class Point(NamedTuple):
    """What was known after `step` steps: `loss` in nats per token (training); `bits_per_byte`, `stderr` (held out)."""

    step: int
    tokens: int
    seconds: float
    loss: float | None = None
    bits_per_byte: float | None = None
    stderr: float | None = None


def training_curve(
    points: Sequence[Point], baselines: Mapping[str, float], *, model: str = "this model", caption: str = ""
) -> str:
    """Two panels against tokens seen: the training loss (nats per token) and the held-out bound (bits per byte).

    The loss is drawn raw and faint, and smoothed; the bound has error bars of one standard error; `baselines` (bits per
    byte) are dashed lines named at their right ends. Values that are missing or not finite are left out, and a panel
    without any value too. Needs matplotlib (`MissingExtra`).
    """
    losses = [(p.tokens, p.loss) for p in points if p.loss is not None and math.isfinite(p.loss)]
    bounds = [
        (p.tokens, p.bits_per_byte, p.stderr if p.stderr and math.isfinite(p.stderr) else 0.0)
        for p in points
        if p.bits_per_byte is not None and math.isfinite(p.bits_per_byte)
    ]
    return _panels(losses, bounds, "Held-out bound, bits per byte", baselines, model, caption)


def curve_of(
    losses: Sequence[tuple[int, float]],
    held_out: Sequence[tuple[int, float, float]],
    title: str,
    baselines: Mapping[str, float],
    *,
    model: str = "this model",
    caption: str = "",
    loss: str = LOSS,
) -> str:
    """The same two panels for any held-out figure: (tokens, loss) and (tokens, value, stderr), titled `title`."""
    kept = [(t, v, e if math.isfinite(e) else 0.0) for t, v, e in held_out if math.isfinite(v)]
    return _panels([(t, v) for t, v in losses if math.isfinite(v)], kept, title, baselines, model, caption, loss)


def _panels(
    losses: Sequence[tuple[int, float]],
    bounds: Sequence[tuple[int, float, float]],
    title: str,
    baselines: Mapping[str, float],
    model: str,
    caption: str,
    loss: str = LOSS,
) -> str:
    panels = [_loss_panel(losses, loss)] if losses else []
    panels += [_bound_panel(bounds, baselines, model, title)] if bounds else []
    if not panels:
        return '<p class="note">There is no point to draw yet.</p>\n'
    return figure(panels, caption)


def smooth(values: Sequence[float], span: float) -> list[float]:
    """Moving average with weights exp(-distance / span) to both sides, so that the curve does not lag."""
    keep = math.exp(-1 / max(span, 1e-2))

    def before(row: Sequence[float]) -> list[float]:  # what the earlier values weigh in at each place
        total, out = 0.0, []
        for value in row:
            out.append(total)
            total = keep * (total + value)
        return out

    def both(row: Sequence[float]) -> list[float]:
        return [a + b for a, b in zip(before(row), before(row[::-1])[::-1], strict=True)]

    totals, weights = both(values), both([1.0] * len(values))
    return [(value + total) / (1 + weight) for value, total, weight in zip(values, totals, weights, strict=True)]


def _loss_panel(losses: Sequence[tuple[int, float]], title: str) -> str:
    tokens, values = [t for t, _ in losses], [v for _, v in losses]
    level = smooth(values, len(values) / 60)
    alt = f"{title}, from {number(level[0])} to {number(level[-1])} after {short(tokens[-1])} tokens."
    with Sheet(WIDTH, HEIGHT, alt) as sheet:
        axes = sheet.axes(left=30, right=10, top=34, bottom=40)
        shown = sorted({*range(0, len(tokens), len(tokens) // MOST + 1), len(tokens) - 1})
        axes.plot([tokens[i] for i in shown], [values[i] for i in shown], color=RAW, linewidth=1.0)
        axes.plot(
            [tokens[i] for i in shown],
            [level[i] for i in shown],
            color=ACCENT,
            linewidth=2.0,
            marker="o" if len(values) == 1 else "",
        )
        _frame(axes, title, tokens)
        return sheet.svg()


def _bound_panel(
    bounds: Sequence[tuple[int, float, float]], baselines: Mapping[str, float], model: str, title: str
) -> str:
    tokens, values = [t for t, _, _ in bounds], [v for _, v, _ in bounds]
    known = {name: value for name, value in baselines.items() if math.isfinite(value)}
    marks = [(model, values[-1], ACCENT), *((name, value, SOFT) for name, value in known.items())]
    texts = [f"{cut(name, 16)} {value:.2f}" for name, value, _ in marks]
    right = 16 + 6.3 * max(map(len, texts))
    height = max(HEIGHT, 74 + LABEL * len(marks))
    alt = (
        f"{title}, against tokens seen: {plus_minus(values[-1], bounds[-1][2])} after {short(tokens[-1])} tokens"
        + "".join(f"; {name} {value:.2f}" for name, value in known.items())
        + "."
    )
    with Sheet(WIDTH, height, alt) as sheet:
        axes = sheet.axes(left=30, right=right, top=34, bottom=40)
        reach = [v + s * e for _, v, e in bounds for s in (-1, 1)] + list(known.values())
        low, high = padded(min(reach), max(reach))
        for value in known.values():
            axes.axhline(value, color=SOFT, linewidth=1.0, dashes=(4, 3))
        axes.errorbar(
            tokens,
            values,
            [e for *_, e in bounds],
            color=ACCENT,
            linewidth=2.0,
            elinewidth=1.2,
            marker="o",
            markersize=4,
        )
        _frame(axes, title, tokens)
        axes.set_ylim(low, high)
        tall = height - 74
        heights = [(value - low) / (high - low) * tall for _, value, _ in marks]
        for text, (_, _, colour), y, wanted in zip(texts, marks, label_heights(heights, tall), heights, strict=True):
            axes.plot(
                [1.0, 1.025],
                [wanted / tall, y / tall],
                transform=axes.transAxes,
                color=colour,
                linewidth=1.0,
                clip_on=False,
            )
            axes.text(1.035, y / tall, text, transform=axes.transAxes, color=colour, va="center_baseline", fontsize=11,
                      weight="bold" if colour == ACCENT else "normal")  # fmt: skip
        return sheet.svg()


def label_heights(wanted: Sequence[float], tall: float) -> list[float]:
    """Where labels that want to stand at `wanted` (pixels above the axis) stand, `LABEL` pixels apart or more."""
    return spread(wanted, LABEL, 0.0, max(tall, LABEL * (len(wanted) - 1)))


def bars(rows: Sequence[tuple[str, float, float | None]], unit: str, *, caption: str = "", first: bool = True) -> str:
    """A dot with its error bar (one standard error) per row `(name, value, stderr)`, its name left, its value right.

    The first row is the model and is drawn in the accent colour unless `first` is false. Rows whose value is not finite
    are left out. Needs matplotlib (`MissingExtra`).
    """
    kept = [
        (n, v, e if e and math.isfinite(e) else 0.0, i == 0 and first)
        for i, (n, v, e) in enumerate(rows)
        if math.isfinite(v)
    ]
    if not kept:
        return '<p class="note">There is no value to draw yet.</p>\n'
    alt = f"{unit}: " + "; ".join(f"{name} {plus_minus(value, error)}" for name, value, error, _ in kept) + "."
    names = [cut(name, 22) for name, *_ in kept]
    texts = [plus_minus(value, error) if error else f"{value:.3f}" for _, value, error, _ in kept]
    height = 50 + 28.0 * len(kept)
    with Sheet(440, height, alt) as sheet:
        axes = sheet.axes(left=14 + 6.7 * max(map(len, names)), right=16 + 6.8 * max(map(len, texts)), top=4, bottom=46)
        for y, (_, value, error, chosen) in enumerate(kept):
            colour = ACCENT if chosen else SOFT
            axes.axhline(y, color=LINE, linewidth=1.0)
            axes.errorbar(
                [value], [y], xerr=[error], color=colour, marker="o", markersize=6.5, elinewidth=1.6, zorder=3
            )
            style: dict[str, Any] = {
                "color": ACCENT if chosen else INK,
                "va": "center_baseline",
                "weight": "bold" if chosen else "normal",
                "fontsize": 11.5,
            }
            axes.annotate(names[y], (0, y), (-12, 0), axes.get_yaxis_transform(), "offset points", ha="right", **style)
            axes.annotate(texts[y], (1, y), (12, 0), axes.get_yaxis_transform(), "offset points", ha="left", **style)
        axes.set_ylim(len(kept) - 0.5, -0.5)
        axes.set_xlim(*padded(min(v - e for _, v, e, _ in kept), max(v + e for _, v, e, _ in kept)))
        axes.set_yticks([])
        axes.grid(False)
        axes.set_xlabel(unit, color=SOFT, fontsize=11, labelpad=6)
        return figure([sheet.svg()], caption, "chart one")


def _frame(axes: Axes, title: str, tokens: Sequence[int]) -> None:
    """What both panels share: a title flush left, tokens along the bottom, light rules."""
    box = axes.get_window_extent()
    axes.annotate(title, (0, box.height), (-box.x0 + 1, 22), "axes points", "offset points",
                  color=INK, fontsize=12, weight="bold", va="center")  # fmt: skip
    axes.set_xlabel("tokens seen", color=SOFT, fontsize=11, labelpad=6)
    axes.set_xlim(0, max(*tokens, 1) * 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.locator_params(axis="both", nbins=5)


def padded(low: float, high: float) -> tuple[float, float]:
    """The range with a tenth of itself added at each end; never empty."""
    room = 0.1 * (high - low) or 0.1 * abs(low) or 1.0
    return low - room, high + room


def short(count: float) -> str:
    """A count in few signs: 950, 1.5k, 20M, 3B."""
    for size, mark in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{mark}"
    return f"{count:.3g}"


def cut(name: str, longest: int) -> str:
    """The name, or its beginning and an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1].rstrip() + "…"
