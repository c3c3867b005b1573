"""Heat map, confused pairs, reliability: what is drawn is what was counted, in a page that loads nothing."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from remask.core.errors import BadInput
from remask.report.confusion import confused_pairs, heat_map
from remask.report.finetuned import Confusions, Numbers, SeedRow, Story, seed_table, tell
from remask.report.reliability import Bar, reliability, scatter, wilson

COUNTS = [[8, 2, 0], [1, 9, 0], [4, 0, 6]]
NAMES = ["a<b", "müsic", "c" * 60]


def drawing(html):
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def titles(html):
    return [node.text for node in drawing(html).iter() if node.tag == "title"]


def test_a_cell_for_every_count():
    html = heat_map(COUNTS, NAMES)
    assert titles(html) == [
        "a<b → a<b: 8 of 10",
        "a<b → müsic: 2 of 10",
        "müsic → a<b: 1 of 10",
        "müsic → müsic: 9 of 10",
        f"{NAMES[2]} → a<b: 4 of 10",
        f"{NAMES[2]} → {NAMES[2]}: 6 of 10",
    ]
    cells = [node for node in drawing(html).iter("rect") if node.get("fill-opacity")]
    depth = [float(cell.get("fill-opacity")) for cell in cells]
    assert depth == pytest.approx([0.12 + 0.88 * share / 10 for share in (8, 2, 1, 9, 4, 6)], abs=0.006)
    assert ["good" in cell.get("fill") for cell in cells] == [True, False, False, True, False, True]
    assert [node.text for node in drawing(html).iter("text")][-6:] == ["8", "2", "1", "9", "4", "6"]
    with pytest.raises(BadInput, match="3 rows and columns"):
        heat_map(COUNTS[:2], NAMES)


@pytest.mark.parametrize("classes", [2, 17, 77])
def test_labels_stay_apart_and_inside(classes):
    names = [f"class_number_{i}" for i in range(classes)]
    svg = drawing(heat_map([[int(i == j) for j in range(classes)] for i in range(classes)], names))
    wide, tall = map(float, svg.get("viewBox").split()[2:])
    rows = [node for node in svg.iter("text") if node.get("text-anchor") == "end"]
    heights = [float(node.get("y")) for node in rows]
    size = float(re.search(r"font-size:(\d+)px", rows[0].get("style"))[1])
    assert len(rows) == classes and min(b - a for a, b in pairwise(heights)) >= size
    assert all(0.62 * size * len(node.text) <= float(node.get("x")) <= wide for node in rows) and max(heights) < tall


def test_the_worst_pairs_come_first():
    table = confused_pairs(COUNTS, NAMES)
    assert [row[1:] for row in table.rows] == [[0, 4, 10, 10], [2, 1, 10, 10]]
    assert len(confused_pairs(COUNTS, NAMES, most=1).rows) == 1
    assert confused_pairs([[3, 0], [0, 3]], ["a", "b"]).note == "No text was taken for another class."


def test_reliability_shows_every_bin():
    bars = [Bar(0.0, 0.5, 0, 0.0, 0.0), Bar(0.5, 1.0, 40, 0.75, 0.5)]
    svg = drawing(reliability(bars))
    (dot,) = svg.iter("circle")
    assert (float(dot.get("cx")), float(dot.get("cy"))) == pytest.approx((48 + 300 * 0.75, 30 + 300 * 0.5))
    assert {"0", "40"} <= {node.text for node in svg.iter("text")}
    low, high = wilson(0.5, 40)
    assert low == pytest.approx(0.3520, abs=2e-4) and high == pytest.approx(0.6480, abs=2e-4)
    assert wilson(0.0, 3)[0] == 0.0 and wilson(1.0, 3)[1] == 1.0


def test_scatter_thins_and_leaves_out_what_is_no_number():
    svg = drawing(scatter([float(i) for i in range(5000)] + [float("nan")], [float(i) for i in range(5001)]))
    dots = list(svg.iter("circle"))
    assert 1000 < len(dots) <= 2000
    assert all(float(d.get("cx")) - 48 == pytest.approx(330 - float(d.get("cy")), abs=0.2) for d in dots)
    assert "no point" in scatter([], [])


def story(judged):
    seeds = [SeedRow(0, 10, {"accuracy": (0.5, 0.1)}), SeedRow(1, 20, {"accuracy": (0.7, 0.1)})]
    return Story(
        "T <b>", "lead", seeds, 1, {"accuracy": (0.6, 0.5, 0.7)}, judged, "notes", "remask finetune", {}, {"a": "b"}
    )


def test_the_page():
    html = tell(story(Confusions(COUNTS, NAMES, [Bar(0.0, 1.0, 30, 0.9, 0.77)], 0.13, "the test file")))
    assert "23 of 30 texts right" in html and "Expected calibration error 0.1300" in html
    assert "seed 1 (kept)" in html and "0.5 to 0.7 over 2 seeds" in html and "T &lt;b&gt;" in html
    rows = seed_table(story(None)).rows
    assert rows[-2:] == [["median", None, 0.6], ["least to largest", None, "0.5 to 0.7"]]
    assert "circle" in tell(story(Numbers([1.0, 2.0], [1.0, 2.5], "valid")))
