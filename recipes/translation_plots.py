"""The picture of the race of recipes/translation.py: BLEU against CPU minutes, and BLEU against speed.

Left: BLEU of a sample of the validation pairs while training, the mean of an arm's seeds. Right: BLEU of joined inputs
against speed at batch 1 on some of them, seed 0; a point is a decoding of a net, a line joins the steps of one net, and
the grey line is the frontier: no system is both faster and better than a point on it. Shapes: none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from recipes.paired_curves import MARKS
from recipes.translation_tables import BEHIND, FAST, STEPS, Found, timed
from remask.core.errors import MissingExtra

MAIN = (
    "teacher",
    "left to right",
    "padir",
    "cmlm",
    "padir from T5",
    "axe",
    "sundae",
    "masked LM's both",
    "masked LM's shape",
)
GREEDY = "left to right; greedy"
FAR = (9, 12, 16, 21, 28, 36)  # points of print from a mark to its label
SIDES = (("center", 0, 1), ("center", 0, -1), ("left", 1, 0), ("right", -1, 0))
CORNERS = (("left", 1, 1), ("left", 1, -1), ("right", -1, 1), ("right", -1, -1))
SHORT = {"CTranslate2 float32": "CTranslate2", "CTranslate2 int8": "CTranslate2 int8", "4, 3 lengths": "4 × 3 lengths"}


class Spot(NamedTuple):
    """A system: how many times as fast as greedy decoding, and its BLEU with the standard error."""

    speed: float
    bleu: float
    error: float


def spots(found: Found) -> dict[str, dict[str, Spot]]:
    """Arm to decoding to where it lies, for what was both timed and weighed."""
    made: dict[str, dict[str, Spot]] = {}
    for name, one in timed(found, "joined", 1).items():
        arm, how = name.split("; ")
        weighed = found.of(arm, f"joined {how}").get(0)
        if weighed is not None:
            spot = Spot(one["speed_over_baseline"], weighed["bleu"], weighed["bleu_stderr"])
            made.setdefault(arm, {})[how] = spot
    return made


def frontier(points: Sequence[Spot]) -> list[Spot]:
    """Those than which none is both faster and better, the fastest last."""
    return [p for p in sorted(points) if not any(q.speed >= p.speed and q.bleu > p.bleu for q in points)]


def mean_curve(seeds: Mapping[int, Mapping[str, Any]]) -> list[tuple[float, float]]:
    """CPU minutes and BLEU, the mean of the seeds at the points that all of them have."""
    curves = [
        [(one["step"] * curve["minutes"] / curve["steps"], one["bleu"]) for one in curve["points"]]
        for curve in seeds.values()
    ]
    return [(fmean(x for x, _ in point), fmean(y for _, y in point)) for point in zip(*curves)]


def figure(found: Found, path: Path) -> None:
    """Draw it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "the picture") from error
    sheet = Figure(figsize=(13, 5.4), layout="constrained")
    FigureCanvasAgg(sheet)
    left, right = sheet.subplots(1, 2)
    looks = {arm: {"color": f"C{number}", "marker": MARKS[number]} for number, arm in enumerate(MAIN)}
    for arm, look in looks.items():
        if points := mean_curve(found.curves.get(arm, {})):
            label = f"{arm} ({len(found.curves[arm])} seeds)" if len(found.curves[arm]) > 1 else arm
            left.plot(*zip(*points), label=label, markersize=4, linewidth=1.3, **look)
    left.set(xlabel="CPU minutes of training, one thread", ylabel="BLEU, sample of the validation pairs")
    if left.lines:
        left.legend(fontsize=8, frameon=False)
    _speeds(right, spots(found), looks)
    part = path.with_name(f".{path.name}.part")
    sheet.savefig(part, format="png", dpi=130)
    part.replace(path)


def _speeds(axis: Any, places: Mapping[str, Mapping[str, Spot]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    """The right half."""
    axis.set(xlabel="times as fast as greedy decoding: joined inputs, batch 1", ylabel="BLEU, joined inputs")
    every = [spot for those in places.values() for spot in those.values()]
    if not every:
        return
    axis.set_xscale("log")
    edge = frontier(every)
    axis.plot([p.speed for p in edge], [p.bleu for p in edge], color="0.75", linewidth=5, zorder=0, alpha=0.6)
    axis.axvline(FAST, color="0.6", linestyle=":", linewidth=1)
    greedy = places.get("left to right", {}).get("greedy")
    if greedy is not None:
        axis.axhline(greedy.bleu + BEHIND, color="0.6", linestyle=":", linewidth=1)
    for arm, those in places.items():
        look = looks.get(arm, {})
        joined = [those[how] for how in STEPS if how in those]
        axis.plot([p.speed for p in joined], [p.bleu for p in joined], linewidth=1, color=look.get("color"))
        bars = {"linestyle": "none", "elinewidth": 0.5, "markersize": 5, "label": arm, **look}
        axis.errorbar([p.speed for p in those.values()], [p.bleu for p in those.values()], None, **bars)
    low, high = min(p.speed for p in every), max(p.speed for p in every)
    axis.set_xlim(low / 1.5, high * 1.6)
    ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low / 1.5 <= x <= high * 1.6]
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.minorticks_off()
    error = max(p.error or 0.0 for p in every)
    axis.set_title(f"numbers: steps; dotted: the bar; standard errors of BLEU up to {error:.1f}", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="best")
    label(axis, [(spot, SHORT.get(how, how), looks.get(arm, {}).get("color", "k")) for arm, how, spot in _each(places)])


def _each(places: Mapping[str, Mapping[str, Spot]]) -> Iterator[tuple[str, str, Spot]]:
    for arm, those in places.items():
        for how, spot in those.items():
            yield arm, how, spot


def label(axis: Any, wanted: Sequence[tuple[Spot, str, str]]) -> list[Any]:
    """A text beside each mark, the nearest that covers no mark, text or legend; its boxes, in pixels."""
    from matplotlib.transforms import Bbox

    sheet = axis.figure
    sheet.draw_without_rendering()  # the layout settles where marks lie
    sheet.set_layout_engine("none")
    renderer = sheet.canvas.get_renderer()
    marks = [axis.transData.transform((spot.speed, spot.bleu)) for spot, _, _ in wanted]
    size = 4 * sheet.dpi / 72
    taken = [Bbox([[x - size, y - size], [x + size, y + size]]) for x, y in marks]
    taken += [axis.get_legend().get_window_extent(renderer)] if axis.get_legend() else []
    made = []
    for (spot, text, color), own in zip(wanted, taken[: len(wanted)]):
        best: tuple[float, Any, Any] | None = None
        for far, (side, right, up) in product(FAR, (*SIDES, *CORNERS)):
            note = axis.annotate(
                text,
                (spot.speed, spot.bleu),
                xytext=(right * far, up * far),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=color,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": color} if far > FAR[1] else None,
            )
            box = note.get_tightbbox(renderer) if far <= FAR[1] else _text_box(note, renderer)
            room = axis.get_window_extent(renderer)
            outside = box.x0 < room.x0 or box.x1 > room.x1 or box.y0 < room.y0 or box.y1 > room.y1
            clash = sum(_shared(box, other) for other in taken if other is not own) + 1e9 * outside
            if best is None or clash < best[0]:
                if best is not None:
                    best[1].remove()
                best = (clash, note, box)
            else:
                note.remove()
            if best[0] == 0:
                break
        assert best is not None
        taken.append(best[2])
        made.append(best[2])
    return made


def _text_box(note: Any, renderer: Any) -> Any:
    """Without its arrow."""
    from matplotlib.text import Text

    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _shared(one: Any, other: Any) -> float:
    """Square pixels that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
