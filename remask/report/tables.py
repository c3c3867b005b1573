"""One table, three faces: HTML for the report, rich for the terminal, GitHub markdown for the notes.

A cell is text, a whole number, a real number, nothing, or an estimate `(value, standard error)`, printed as
`2.124 ± 0.023`: the standard error to two significant digits, the value to the same decimal place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import TYPE_CHECKING, TypeAlias

from remask.core.errors import BadInput
from remask.report.markup import escape

if TYPE_CHECKING:
    import rich.table

Cell: TypeAlias = "str | int | float | tuple[float, float] | None"

NOTHING = "–"
SMALLEST, LARGEST = -5, 12  # powers of ten printed plainly; beyond them, as (1.23 ± 0.45)e-07

DOUBLE = 1e-14  # an error smaller than this share of its value is below what a double holds


def _round(value: Decimal, place: int) -> str:
    """`value` to a whole number of `10 ** place`."""
    rounded = value.quantize(Decimal((0, (1,), place)), ROUND_HALF_EVEN)
    if place > 0:
        rounded = rounded.quantize(Decimal(1))
    return f"{abs(rounded) if rounded.is_zero() else rounded:f}"


def plus_minus(value: float, stderr: float) -> str:
    """`value ± stderr`: the error to two significant digits, the value to the same place; no error, no `±`."""
    if not (math.isfinite(value) and math.isfinite(stderr) and stderr > abs(value) * DOUBLE):
        return number(value)
    with localcontext(prec=800):
        exact, error = Decimal(value), Decimal(f"{stderr:.1e}")
        size = max(exact.adjusted() if value else error.adjusted(), error.adjusted())
        shift = 0 if SMALLEST <= size < LARGEST else size
        exact, error = exact.scaleb(-shift), error.scaleb(-shift)
        place = error.adjusted() - 1
        text = f"{_round(exact, place)} ± {_round(error, place)}"
    return f"({text})e{shift:+03d}" if shift else text


def number(value: float) -> str:
    """A whole number with thousands marked, a real one to four significant digits, NaN as a dash."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if 9999.5 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value else "0"


def show(cell: Cell) -> str:
    """A cell as plain text."""
    if cell is None:
        return NOTHING
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return plus_minus(*cell) if isinstance(cell, tuple) else number(cell)


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, rows of cells, and a note that says how the numbers were made.

    The first column names its row. A row with too few or too many cells is `BadInput`.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise BadInput(f"the table '{self.title}' has {len(self.columns)} columns, a row has {len(row)} cells.")

    def numeric(self) -> list[bool]:
        """Per column: does it hold numbers (and so stand flush right)?"""
        cells = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        return [
            any(cell is not None for cell in column) and not any(isinstance(cell, str | bool) for cell in column)
            for column in cells
        ]

    def to_html(self) -> str:
        """The table as HTML: a caption, a heading per column, a heading per row, the note below."""
        right = [' class="num"' if numeric else "" for numeric in self.numeric()]
        heads = "".join(f'<th scope="col"{c}>{escape(name)}</th>' for c, name in zip(right, self.columns, strict=True))
        body = "".join(f"<tr>{''.join(map(_td, row, right, range(len(row))))}</tr>\n" for row in self.rows)
        note = f'<p class="note">{escape(self.note)}</p>\n' if self.note else ""
        return (
            f'<div class="table" tabindex="0" role="region" aria-label="{escape(self.title)}">\n'
            f"<table>\n<caption>{escape(self.title)}</caption>\n"
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n{note}"
        )

    def to_rich(self) -> rich.table.Table:
        """The table for a terminal."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=Text(self.title), caption=Text(self.note) if self.note else None, box=box.SIMPLE)
        for name, numeric in zip(self.columns, self.numeric(), strict=True):
            table.add_column(Text(name), justify="right" if numeric else "left")
        for row in self.rows:
            table.add_row(*(Text(show(cell)) for cell in row))
        return table

    def to_markdown(self) -> str:
        """The table as GitHub markdown, padded so that it also reads well as plain text."""
        grid = [[_md(name) for name in self.columns], *([_md(show(cell)) for cell in row] for row in self.rows)]
        widths = [max(3, *(len(row[i]) for row in grid)) for i in range(len(self.columns))]
        right = self.numeric()
        rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
        lines = [
            "| "
            + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
            + " |"
            for row in (grid[0], rule, *grid[1:])
        ]
        head = [f"**{_md(self.title)}**", ""] if self.title else []
        return "\n".join([*head, *lines, *(["", _md(self.note)] if self.note else [])]) + "\n"


def _td(cell: Cell, css: str, column: int) -> str:
    """One cell of HTML; the first of a row is its heading, and a standard error steps back a little."""
    text = escape(show(cell))
    if isinstance(cell, tuple) and " ± " in text and not text.startswith("("):
        value, error = text.split(" ± ")
        text = f'{value} <span class="se">± {error}</span>'
    return f'<th scope="row"{css}>{text}</th>' if column == 0 else f"<td{css}>{text}</td>"


def _md(text: str) -> str:
    """Text that stays inside one markdown cell."""
    text = " ".join(text.split())
    for mark in "\\`*_|":
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
