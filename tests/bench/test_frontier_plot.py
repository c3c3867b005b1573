"""The picture of the frontier: a panel with one point is a panel all the same."""

import pytest

from remask.bench.frontier_plot import _panel

figure = pytest.importorskip("matplotlib.figure", reason="no plots without remask[plot]")


@pytest.mark.parametrize("place", [0.0004, 0.5, 64.0, 1000.0])
def test_one_point_has_ticks_on_both_sides(place):
    axes = figure.Figure().add_subplot()
    row = {"arm": "one", "calls": place, "temperature": 1, "loss": 0.0, "loss_stderr": 0.1}
    _panel(axes, "one point", "calls", [row], {"one": {}})
    low, high = axes.get_xlim()
    ticks = axes.get_xticks()
    assert low < place < high <= 10 * low
    assert len(ticks) >= 2
    assert all(low <= tick <= high for tick in ticks)
