"""Charts are clean SVG, repeat exactly, and their labels never overlap."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remask.core.errors import MissingExtra
from remask.report.curves import LABEL, Point, bars, label_heights, short, smooth, training_curve
from remask.report.draw import COLOURS, spread

HEIGHTS = st.lists(st.floats(0, 200), min_size=1, max_size=12)
POINTS = [Point(i, i * 1000, i * 0.5, 4 + 4 / (1 + i), 2 + 2 / (1 + i), 0.03) for i in range(20)]


@given(HEIGHTS, st.floats(1, 400))
def test_labels_never_overlap(wanted, tall):
    placed = sorted(label_heights(wanted, tall))
    assert all(b - a >= LABEL - 1e-9 for a, b in pairwise(placed))
    assert placed[0] >= 0 and placed[-1] <= max(tall, LABEL * (len(wanted) - 1)) + 1e-9


@given(HEIGHTS)
def test_labels_keep_the_order_of_their_lines(wanted):
    placed = label_heights(wanted, 200.0)
    for i, a in enumerate(wanted):
        for j, b in enumerate(wanted):
            assert not (a < b) or placed[i] < placed[j]


def test_labels_with_room_stay_where_they_belong():
    assert label_heights([100.0, 10.0, 50.0], 200.0) == [100.0, 10.0, 50.0]
    assert spread([50.0, 50.0], 10.0, 0.0, 100.0) == [45.0, 55.0]  # a tie moves both by half
    assert spread([], 10.0, 0.0, 1.0) == []


def test_drawn_labels_stand_where_the_layout_says():
    html = training_curve(POINTS, {"gzip": 2.61, "xz": 2.6, "lzma": 2.605, "unigram": 4.6})
    svg = ET.fromstring(html[html.rindex("<svg") : html.rindex("</svg>") + 6])
    texts = [e for e in svg.iter("text") if (e.text or "").split(" ")[0] in ("gzip", "xz", "lzma", "unigram", "this")]
    heights = sorted(float(e.get("y", "nan")) for e in texts)
    assert len(heights) == 5
    assert all(b - a >= LABEL - 0.5 for a, b in pairwise(heights))  # 0.5: fonts' own baselines


def test_svg_follows_the_page_and_is_clean():
    html = training_curve(POINTS, {"gzip <&>": 2.6}) + bars([("model", 2.1, 0.02), ("$x$ \u4e00", 2.6, None)], "bits")
    assert html.count("<svg") == 3 and html.count("aria-label=") == 3
    assert "var(--accent" in html and "var(--ink" in html and "var(--sans" in html
    assert not any(stand_in in html for stand_in in COLOURS)
    for unwanted in ("<style", "<metadata", "<!--", "http", "xlink", "DejaVu", "gzip <"):
        assert unwanted not in html
    assert "$x$ \u4e00" in html and "2.100 ± 0.020" in html


def test_same_input_same_bytes_and_settings_come_back():
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert training_curve(POINTS, {"a": 2.0}) == training_curve(POINTS, {"a": 2.0})
    assert bars([("a", 1.0, 0.1)], "u") == bars([("a", 1.0, 0.1)], "u")
    assert dict(matplotlib.rcParams) == before


def test_what_is_missing_is_left_out():
    assert "no point" in training_curve([], {}) and "no value" in bars([("a", math.nan, None)], "u")
    only_loss = training_curve([Point(1, 10, 1.0, 5.0), Point(2, 20, 2.0, math.nan)], {"a": 2.0})
    assert only_loss.count("<svg") == 1 and "Training loss" in only_loss
    only_bound = training_curve([Point(0, 0, 0.0, None, 2.0, None)], {"a": 2.0, "b": math.inf})
    assert only_bound.count("<svg") == 1 and ">b " not in only_bound
    assert "<svg" in bars([("a", 0.0, None)], "u")


def test_missing_matplotlib_is_a_sentence_of_help(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"remask\[plot\]"):
        training_curve(POINTS, {})


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), max_size=30), st.floats(0, 10))
def test_smoothing_stays_within_the_values(values, span):
    level = smooth(values, span)
    assert len(level) == len(values)
    assert all(min(values) - 1e-9 <= v <= max(values) + 1e-9 for v in level)


def test_smoothing_does_not_lag():
    line = [float(i) for i in range(101)]
    assert smooth(line, 3.0)[50] == pytest.approx(50.0)
    assert smooth(line, 0.0)[7] == pytest.approx(7.0)


def test_a_long_run_stays_a_small_page():
    html = training_curve([Point(i, i * 4096, i * 0.1, 4.0 + (i * 37 % 11) / 10) for i in range(20_000)], {})
    assert len(html) < 60_000


def test_short():
    assert [short(x) for x in (0, 950, 1500, 20e6, 3e9)] == ["0", "950", "1.5k", "20M", "3B"]
