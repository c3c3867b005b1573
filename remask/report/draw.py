"""The drawing sheet behind `curves`: matplotlib in, clean inline SVG out; and labels that never overlap."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from remask.core.errors import MissingExtra
from remask.report.markup import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-in colours; the SVG gets the CSS variable instead (with a grey that reads on white and on black).
INK, SOFT, LINE, ACCENT, RAW = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
COLOURS = {
    INK: "var(--ink,#7d8590)",
    SOFT: "var(--soft,#7d8590)",
    LINE: "var(--line,#7d859055)",
    ACCENT: "var(--accent,#4a86d8)",
    RAW: "var(--raw,#7d859066)",
}
PER_INCH = 72.0  # matplotlib's SVG has 72 units to the inch: one unit is one pixel
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "remask",
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "font.family": ["DejaVu Sans"],
    "path.simplify": True,
}


class Sheet:
    """A figure of `width` x `height` pixels that reads out as `alt`; use as a context, add `axes`, take `svg()`."""

    def __init__(self, width: float, height: float, alt: str):
        self.width, self.height, self.alt = width, height, alt
        self._stack = ExitStack()

    def __enter__(self) -> Sheet:
        """Load matplotlib, or say how to install it; its settings hold inside the context only."""
        try:
            import matplotlib
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtra("matplotlib", "plot", "drawing curves") from error
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # a glyph that matplotlib's own font lacks: the reader's font draws it
        self._stack.enter_context(matplotlib.rc_context())
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        self.figure = Figure(figsize=(self.width / PER_INCH, self.height / PER_INCH), dpi=PER_INCH)
        FigureCanvasSVG(self.figure)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give matplotlib's settings back."""
        self._stack.close()

    def axes(self, left: float, right: float, top: float, bottom: float) -> Axes:
        """Quiet axes inside margins given in pixels: no box, light horizontal rules, small grey figures."""
        wide, tall = self.width, self.height
        axes = self.figure.add_axes((left / wide, bottom / tall, 1 - (left + right) / wide, 1 - (top + bottom) / tall))
        axes.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0, labelsize=11, labelcolor=SOFT, pad=6)
        axes.grid(True, axis="y", color=LINE, linewidth=1.0)
        axes.set_axisbelow(True)
        return axes

    def svg(self) -> str:
        """The drawing as inline SVG: one element, no prolog, no outside reference, ids of its own."""
        self.figure.patch.set_visible(False)
        out = io.StringIO()
        self.figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return tidy(out.getvalue(), self.width, self.height, self.alt)


def tidy(svg: str, width: float, height: float, alt: str) -> str:
    """matplotlib's SVG file, made fit to stand in a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|<g/>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" stroke-linejoin="round" role="img" aria-label="{escape(alt)}">'
    svg = head + svg[svg.index(">") + 1 :].strip()
    svg = svg.replace("xlink:href=", "href=")
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: var(--sans,system-ui,sans-serif)")
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{m[1]}-{own}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#([\w-]+)', rf"\1#\2-{own}", svg)
    return re.sub(r"\n\s*", "\n", svg) + "\n"


def figure(panels: Sequence[str], caption: str, css: str = "chart") -> str:
    """Panels side by side where there is room, one below the other where there is not, with a caption."""
    words = f"<figcaption>{escape(caption)}</figcaption>\n" if caption else ""
    return f'<figure class="{css}">\n<div class="panels">\n{"".join(panels)}</div>\n{words}</figure>\n'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places nearest (in squares) to the `wanted` ones, `gap` apart or more, in [low, high] and in the same order.

    Subtracting `gap` times the rank turns it into isotonic regression, solved by pooling neighbours. If there is
    no room for all gaps, the gaps stay and the places run past `high`.
    """
    ranks = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    pools: list[tuple[float, int]] = []  # sum and count of each run of labels that touch
    for rank, i in enumerate(ranks):
        pools.append((wanted[i] - gap * rank, 1))
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            last, before = pools.pop(), pools.pop()
            pools.append((before[0] + last[0], before[1] + last[1]))
    level = [total / count for total, count in pools for _ in range(count)]
    top = max(low, high - gap * (len(wanted) - 1))
    places = [0.0] * len(wanted)
    for rank, i in enumerate(ranks):
        places[i] = min(max(level[rank], low), top) + gap * rank
    return places
