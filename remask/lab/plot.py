"""Plot: the panels of an experiment as one PNG or SVG file, readable at a glance and in grey."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remask.core.errors import BadInput, MissingExtra
from remask.lab.experiment import Line, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, TALL, DOTS = 5.2, 3.9, 110  # inches of a panel, dots per inch
ACROSS = 3  # panels side by side
COLOURS = ("#2f6fb7", "#d1603d", "#3a8f5c", "#8a5aa8", "#b8860b", "#4aa3a2")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#777777"
FEW, APART = 8, 1.3  # places on a logarithmic axis that are written out: how many, and what lies between them
SUFFIXES = (".png", ".svg")
SETTINGS: dict[Any, Any] = {"svg.hashsalt": "remask", "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8}


def check(path: str | Path) -> Path:
    """The path as one that can be drawn into; BadInput for another suffix, or a folder that is not there."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise BadInput(f"--plot came as '{path}': type a name that ends in .png or .svg.")
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder '{path.parent}' for the plot: make it, or type another --plot.")
    return path


def plot(panels: Sequence[Panel], path: str | Path, title: str = "") -> None:
    """Draw the panels into `path`, whose suffix is .png or .svg; written whole or not at all."""
    path = check(path)
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot", "drawing plots") from error
    across = 2 if len(panels) == 4 else min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    staged = path.with_name(f".{path.name}")
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(WIDE * across, TALL * down + 0.3 * bool(title)), dpi=DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        for number, panel in enumerate(panels):
            _draw(figure.add_subplot(down, across, number + 1), panel)
        if title:
            figure.suptitle(title, fontsize=11)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(staged, format=path.suffix[1:], metadata=metadata)
    staged.replace(path)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    theory = measured = 0
    for line in panel.lines:
        _line(axes, line, theory if line.theory else measured)
        theory, measured = theory + line.theory, measured + (not line.theory)
    places = sorted({x for line in panel.lines for x in line.x})
    if panel.log_x and len(places) <= FEW and all(b > APART * a for a, b in pairwise(places)):
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    if len(panel.lines) > 1 or panel.lines[0].theory:
        axes.legend(frameon=False)


def _line(axes: Axes, line: Line, number: int) -> None:
    if line.theory:
        axes.plot(line.x, line.y, color=GREY, linestyle=("--", ":", "-.")[number % 3], linewidth=1.6, label=line.name)
        return
    style: dict[str, Any] = {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4.5,
    }
    axes.errorbar(line.x, line.y, yerr=line.error, linewidth=1.4, capsize=2.5, label=line.name, **style)
