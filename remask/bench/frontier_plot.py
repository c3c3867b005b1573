"""The picture of the frontier: what a system loses at matched entropy, against its time and against its calls.

A panel for every length and batch, and one of calls for every length. A line joins the budgets of one system, broken
where no cache is kept; the baseline lies at no loss, and left of it is faster. Temperatures of the baseline and of
exact samplers are there to be matched with and are drawn at 1 alone. Systems whose entropy the baseline did not reach
at any temperature cannot be matched: they are counted in the title and not drawn. Shapes: none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from remask.bench.frontier_systems import LEFT_TO_RIGHT
from remask.core.errors import BadInput, MissingExtra

COLOURS = ("#2f6fb7", "#d1603d", "#3a8f5c", "#8a5aa8", "#b8860b", "#4aa3a2", "#777777", "#c2559b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
BASELINE = {"color": "black", "marker": "*", "markersize": 10}
PLACES = (1, 2, 5)  # of a decade of seconds or calls, written out
LOSSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
NARROW = 3.0  # times the least place: what lies closer together gets room on both sides
LINE = 0.17  # inches of a line of the legend
LINEAR = 0.1  # losses beyond it are drawn on a logarithmic scale
SUFFIXES = (".png", ".svg")


def check(path: str) -> Path:
    """A path that can be drawn into; before minutes of work, not after. BadInput or MissingExtra where it cannot."""
    found = Path(path)
    if found.suffix not in SUFFIXES:
        raise BadInput(f"--plot came as '{path}': type a name that ends in .png or .svg, or '' for no plot.")
    if not found.parent.is_dir():
        raise BadInput(f"there is no folder '{found.parent}' for the plot: make it, or type another --plot.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "drawing the frontier (--plot '' leaves it out)") from error
    return found


def series(rows: Sequence[dict[str, Any]], x: str) -> dict[str, list[tuple[float, float, float]]]:
    """System to its points (x, loss, error of the loss), those of one temperature together, from left to right."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in shown(rows):
        if row.get("loss") is not None and row.get(x):
            warm = "" if row["temperature"] == 1 else f", T = {row['temperature']:g}"
            point = row[x], row["loss"], row["loss_stderr"] or 0.0
            found.setdefault(row["arm"] + warm, []).append(point)
    return {name: sorted(points) for name, points in found.items()}


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without other temperatures than 1 of systems that are there to be matched with."""
    usual = {row["arm"] for row in rows if row.get("temperature") == 1}
    return [row for row in rows if row.get("temperature") == 1 or row["arm"] not in usual or not _matches(row)]


def _matches(row: dict[str, Any]) -> bool:
    """Whether a row is of the baseline, or of a sampler that opens a cell a call."""
    return row.get("sampler") == LEFT_TO_RIGHT or row.get("calls_over_exact") == 1


def panels(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Title, column of x, and rows of every panel."""
    timed = [row for row in rows if row["batch"] is not None]
    for length in dict.fromkeys(row["length"] for row in timed):
        mine = [row for row in timed if row["length"] == length]
        batches = list(dict.fromkeys(row["batch"] for row in mine))
        for batch in batches:
            yield f"length {length}, batch {batch}", "seconds", [row for row in mine if row["batch"] == batch]
        once = [row for row in mine if row["batch"] == batches[0] and row["cache"] != "none"]
        yield f"length {length}", "calls", once


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw all rows into `path`, written whole or not at all."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wanted = list(panels(rows))
    if not wanted:
        return
    lengths = len({row["length"] for _, _, part in wanted for row in part})
    across = len(wanted) // lengths
    names = list(dict.fromkeys(name for _, x, part in wanted for name in series(part, x)))
    black = {row["arm"] for row in rows if row.get("sampler") == LEFT_TO_RIGHT}
    others = [name for name in names if name not in black]
    looks: dict[str, dict[str, Any]] = dict.fromkeys(black, BASELINE)
    looks |= {name: _look(at, name) for at, name in enumerate(others)}
    tall = max(3.8 * lengths, LINE * len(names) + 0.5)
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "remask"}):
        sheet = Figure(figsize=(5.0 * across + 3.6, tall), dpi=110, layout="constrained")
        FigureCanvasAgg(sheet)
        for at, (title, x, part) in enumerate(wanted, start=1):
            _panel(sheet.add_subplot(lengths, across, at), title, x, part, looks)
        every = {label: handle for axes in sheet.axes for handle, label in zip(*axes.get_legend_handles_labels())}
        if every:
            sheet.legend(every.values(), every.keys(), loc="outside right upper", frameon=False, fontsize=8)
        staged = path.with_name(f".{path.name}")
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        sheet.savefig(staged, format=path.suffix[1:], metadata=metadata)
    staged.replace(path)


AXES = {"seconds": "seconds for 1,000 tokens", "calls": "network calls a text"}


def _panel(axes: Any, title: str, x: str, rows: Sequence[dict[str, Any]], looks: dict[str, Any]) -> None:
    found = series(rows, x)
    lost = sum(row["loss"] is None for row in shown(rows))
    axes.set_title(title + (f" ({lost} without a match)" if lost else ""), loc="left")
    axes.set(xlabel=AXES[x], ylabel="loss at the baseline's entropy")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=LINEAR)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    every = [place for points in found.values() for place, *_ in points]
    if every and max(every) < NARROW * min(every):  # a single point has no width to draw ticks in
        middle = math.sqrt(min(every) * max(every))
        axes.set_xlim(middle / NARROW, middle * NARROW)
    for name, points in found.items():
        places, losses, errors = zip(*points)
        style = {"linewidth": 1.2, "markersize": 4.5, "capsize": 2, **looks[name]}
        axes.errorbar(places, losses, yerr=errors, label=name, **style)
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    spots = [place * 10.0**decade for decade in decades for place in PLACES]
    axes.set_xticks(kept := [place for place in spots if low <= place <= high], [f"{place:g}" for place in kept])
    low, high = axes.get_ylim()
    axes.set_yticks(kept := [loss for loss in LOSSES if low <= loss <= high], [f"{loss:.0%}" for loss in kept])
    axes.minorticks_off()


def _look(number: int, name: str) -> dict[str, Any]:
    """Colour and marker, no two alike among the first 64; broken without a cache."""
    round_ = number // len(COLOURS)
    marker = MARKERS[(number + round_) % len(MARKERS)]
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": marker,
        "linestyle": "--" if ", no cache" in name else "-",
    }
