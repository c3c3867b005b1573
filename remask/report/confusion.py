"""Which class was taken for which: a heat map that stays readable at some eighty classes, and the most confused pairs.

Drawn by hand as inline SVG in the page's colours, so a report needs no drawing library. A cell's depth is its share of
its row (of the texts that truly are of that class); right ones and errors have colours of their own.
Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from remask.core.errors import BadInput
from remask.report.curves import cut
from remask.report.draw import figure
from remask.report.markup import escape
from remask.report.tables import Cell, Table

NAMED = 20  # classes up to which columns are named; beyond it they carry the numbers of the rows
COUNTED = 16  # classes up to which cells hold their counts
MOST_PAIRS = 20
LETTER = 6.4  # pixels of a letter at 11 pixels
FAINTEST = 0.12  # depth of a cell with one text of many
FONT = "font-family:var(--sans,system-ui,sans-serif)"


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str], *, caption: str = "") -> str:
    """The confusion matrix as a figure: rows are true classes, columns what the model said.

    counts: [C][C], counts[i][j] texts of class i called j; names: [C]. BadInput where they do not fit.
    """
    classes = len(names)
    if len(counts) != classes or any(len(row) != classes for row in counts):
        raise BadInput(f"a confusion matrix of {classes} classes needs {classes} rows and columns of counts.")
    side = 34.0 if classes <= COUNTED else 20.0 if classes <= NAMED else 11.0
    letter = LETTER if classes <= NAMED else LETTER * 9 / 11
    size = 11 if classes <= NAMED else 9
    rows = [cut(name, 28) if classes <= NAMED else f"{cut(name, 32)} {at}" for at, name in enumerate(names, 1)]
    left = 24 + letter * max(map(len, rows))
    columns = [cut(name, 20) for name in names] if classes <= NAMED else [str(at) for at in range(1, classes + 1)]
    top = 24 + letter * max(map(len, columns)) * (1.0 if classes > NAMED else 0.75)
    slant = 0 if classes <= NAMED else -90
    grid = side * classes
    right = 12 if classes > NAMED else max(12.0, 0.75 * letter * len(columns[-1]) - side / 2)
    parts = [f'<rect x="{left:g}" y="{top:g}" width="{grid:g}" height="{grid:g}" fill="var(--card,none)"/>']
    parts += [_name(left - 6, top + side * (at + 0.5), name, "end", size) for at, name in enumerate(rows)]
    parts += [_column(left + side * (at + 0.5), top - 6, name, size, slant) for at, name in enumerate(columns)]
    parts += [
        _cell(left + side * j, top + side * i, side, count, sum(row), i == j, classes, f"{names[i]} → {names[j]}")
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count
    ]
    parts.append(
        f'<rect x="{left:g}" y="{top:g}" width="{grid:g}" height="{grid:g}" fill="none" '
        'stroke="var(--line,#7d859055)"/>'
    )
    wide, tall = left + grid + right, top + grid + 8
    total = sum(map(sum, counts))
    good = sum(counts[i][i] for i in range(classes))
    alt = f"Confusion matrix of {classes} classes: {good} of {total} texts on the diagonal."
    svg = (
        f'<svg viewBox="0 0 {wide:g} {tall:g}" style="max-width:{max(wide, 240):g}px" role="img" '
        f'aria-label="{escape(alt)}">\n' + "\n".join(parts) + "\n</svg>\n"
    )
    return figure([svg], caption, "chart matrix")


def _name(x: float, y: float, text: str, anchor: str, size: int) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central" fill="var(--soft,#7d8590)" '
        f'style="font-size:{size}px;{FONT}">{escape(text)}</text>'
    )


def _column(x: float, y: float, text: str, size: int, slant: int) -> str:
    turn = slant or -45
    return (
        f'<text transform="translate({x:.1f} {y:.1f}) rotate({turn})" dominant-baseline="central" '
        f'fill="var(--soft,#7d8590)" style="font-size:{size}px;{FONT}">{escape(text)}</text>'
    )


def _cell(x: float, y: float, side: float, count: int, of: int, good: bool, classes: int, title: str) -> str:
    """One filled cell, with its count where there is room; the title shows when the pointer rests on it."""
    share = count / of
    depth = FAINTEST + (1 - FAINTEST) * share
    colour = "var(--good,#3f9a63)" if good else "var(--accent,#4a86d8)"
    cell = (
        f'<rect x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{side - 1:g}" height="{side - 1:g}" rx="1.5" '
        f'fill="{colour}" fill-opacity="{depth:.2f}"><title>{escape(title)}: {count} of {of}</title></rect>'
    )
    if classes > COUNTED:
        return cell
    ink = "var(--card,#fff)" if depth > 0.6 else "var(--ink,#7d8590)"
    return cell + (
        f'<text x="{x + side / 2:.1f}" y="{y + side / 2:.1f}" text-anchor="middle" dominant-baseline="central" '
        f'fill="{ink}" pointer-events="none" style="font-size:{11 if count < 1000 else 9}px;{FONT}">{count}</text>'
    )


def confused_pairs(counts: Sequence[Sequence[int]], names: Sequence[str], most: int = MOST_PAIRS) -> Table:
    """The pairs of classes that are confused most, both directions together, the worst first."""
    found = [
        (counts[i][j] + counts[j][i], i, j)
        for i in range(len(names))
        for j in range(i)
        if counts[i][j] + counts[j][i] > 0
    ]
    found.sort(key=lambda pair: (-pair[0], pair[2], pair[1]))
    wrong = sum(pair[0] for pair in found)
    rows: list[list[Cell]] = [
        [f"{cut(names[j], 44)} / {cut(names[i], 44)}", counts[j][i], counts[i][j], sum(counts[j]), sum(counts[i])]
        for _, i, j in found[:most]
    ]
    return Table(
        "Most confused pairs",
        ["one / other", "one called other", "other called one", "texts of one", "texts of other"],
        rows,
        f"{len(found)} pairs of classes share {wrong} errors; shown are the {len(rows)} with the most."
        if rows
        else "No text was taken for another class.",
    )
