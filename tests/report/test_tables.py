"""Numbers are printed honestly, and the three faces of a table agree."""

from __future__ import annotations

import io
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remask.core.errors import BadInput
from remask.report.tables import Table, number, plus_minus, show

SIGNED = st.floats(-1e12, 1e12, allow_nan=False)
ERRORS = st.floats(1e-12, 1e12)


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (2.1241, 0.0231, "2.124 ± 0.023"),
        (2.0, 0.0996, "2.00 ± 0.10"),
        (56789.0, 1234.0, "56800 ± 1200"),
        (-0.001, 0.5, "0.00 ± 0.50"),
        (0.0, 0.02, "0.000 ± 0.020"),
        (1.2e-12, 1e-13, "(1.20 ± 0.10)e-12"),
        (3.0, 0.0, "3"),
        (3.0, float("nan"), "3"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_plus_minus(value, stderr, text):
    assert plus_minus(value, stderr) == text


@given(SIGNED, ERRORS)
def test_printed_value_is_within_half_a_unit(value, stderr):
    text = plus_minus(value, stderr)
    if " ± " not in text:
        assert stderr <= abs(value) * 1e-14
        return
    found = re.fullmatch(r"\(?(-?[\d.]+) ± ([\d.]+)(?:\)e([+-]\d+))?", text)
    assert found
    printed, error, scale = Decimal(found[1]), Decimal(found[2]), int(found[3] or 0)
    place = Decimal(f"{stderr:.1e}").adjusted() - 1  # two significant digits of the error say where the last digit is
    assert abs(printed.scaleb(scale) - Decimal(value)) <= Decimal(5).scaleb(place - 1)
    assert abs(error.scaleb(scale) - Decimal(stderr)) <= Decimal(5).scaleb(place - 1)
    assert len(found[1].partition(".")[2]) == len(found[2].partition(".")[2])
    assert not found[1].startswith("-0") or printed != 0


def test_number_and_show():
    assert [number(x) for x in (1605632, 2.5, 0.02, 171.23, 123456.7, float("inf"))] == [
        "1,605,632", "2.5", "0.02", "171.2", "123,457", "∞",
    ]  # fmt: skip
    assert [show(c) for c in (None, True, "x", (1.0, 0.1))] == ["–", "yes", "x", "1.00 ± 0.10"]


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)(?:\\\\)*\|", line)


@given(
    st.lists(st.tuples(st.text(max_size=8), st.none() | SIGNED | st.tuples(SIGNED, ERRORS), st.integers()), max_size=5)
)
def test_markdown_has_equal_columns(rows):
    lines = Table("", ["name | x", "value", "n"], rows).to_markdown().splitlines()
    assert len(lines) == len(rows) + 2
    assert {len(cells(line)) for line in lines} == {5}


def test_three_faces():
    from rich.console import Console

    table = Table(
        "Bits [bold]", ["model", "bits", "note"], [["a|b", (2.1241, 0.023), "[red]"], ["<c>", 2.5, None]], "N."
    )
    html, md = table.to_html(), table.to_markdown()
    assert '2.124 <span class="se">± 0.023</span>' in html and "&lt;c&gt;" in html and "<c>" not in html
    assert '<th scope="col" class="num">bits</th>' in html and '<th scope="row">a|b</th>' in html
    assert "<caption>" in html and "N." in html
    assert "a\\|b" in md and "&lt;c>" not in md and "--:" in md and md.startswith("**Bits [bold]**\n\n|")
    out = io.StringIO()
    Console(file=out, width=100).print(table.to_rich())
    assert "2.124 ± 0.023" in out.getvalue() and "[red]" in out.getvalue() and "Bits [bold]" in out.getvalue()


def test_ragged_rows_are_refused():
    with pytest.raises(BadInput, match="2 columns, a row has 1"):
        Table("T", ["a", "b"], [["x"]])
