"""Intervals against scipy, crossings against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recipes.paired_curves import Interval, Panel, figure, interval, paired, reach, read, table

OURS = {0: 0.61, 1: 0.72, 2: 0.55, 3: 0.80, 4: 0.66}
THEIRS = {0: 0.59, 1: 0.69, 2: 0.54, 3: 0.77, 4: 0.64}


def test_the_interval_is_student_s():
    values = list(OURS.values())
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    ours = interval(values)
    assert ours.mean == pytest.approx(np.mean(values)) and ours.n == 5
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
    assert not math.isclose(ours.high - ours.low, 2 * 1.96 * stats.sem(values), rel_tol=0.1), "a normal one is narrower"


def test_pairing_finds_what_the_spread_of_seeds_hides():
    expected = stats.ttest_rel(list(OURS.values()), list(THEIRS.values())).confidence_interval(0.95)
    ours = paired(OURS, THEIRS)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
    assert ours.sure and ours.mean == pytest.approx(0.022)
    unpaired = stats.ttest_ind(list(OURS.values()), list(THEIRS.values())).confidence_interval(0.95)
    assert unpaired.low < 0 < unpaired.high


def test_pairs_go_by_seed():
    turned = dict(reversed(THEIRS.items()))
    assert paired(OURS, turned) == paired(OURS, THEIRS)
    some = {seed: THEIRS[seed] for seed in (1, 3)}
    assert paired(OURS, some).n == 2 and paired(OURS, some).mean == pytest.approx(0.03)
    assert paired(OURS, {}) is None
    assert math.isnan(interval([1.0]).low) and not interval([1.0]).sure


def test_a_curve_is_straight_in_the_logarithm_of_what_was_spent():
    curve = [(100.0, 0.2), (400.0, 0.6), (1600.0, 0.5), (6400.0, 0.9)]
    assert read(curve, 200) == pytest.approx(0.4)
    assert read(curve, 6400) == pytest.approx(0.9)
    assert read(curve, 99) is None and read(curve, 6401) is None
    assert reach(curve, 0.4) == pytest.approx(200)
    assert reach(curve, 0.7) == pytest.approx(1600 * 4**0.5)
    assert reach(curve, 0.55) == pytest.approx(100 * 4 ** (0.35 / 0.4)), "the first crossing counts"
    assert reach(curve, 0.95) is None and reach(curve, 0.1) is None
    for level in (0.3, 0.55, 0.8):
        assert read(curve, reach(curve, level)) == pytest.approx(level)


def test_the_figure_is_written_twice(tmp_path):
    points = [(10.0, Interval(0.1, 0.0, 0.2, 5)), (100.0, Interval(0.5, math.nan, math.nan, 1))]
    paths = figure(
        [Panel("tokens", {"a": points}), Panel("FLOPs", {"a": points})], {"oracle": 1.0}, "y", tmp_path / "f"
    )
    assert [p.name for p in paths] == ["f.png", "f.svg"] == sorted(p.name for p in tmp_path.iterdir())
    assert paths[0].read_bytes().startswith(b"\x89PNG") and b"</svg>" in paths[1].read_bytes()


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
