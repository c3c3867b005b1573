"""Plots: a whole file or none, the same bytes for the same findings, every line in it."""

import pytest

from remask.core.errors import BadInput
from remask.lab.experiment import Line, Panel
from remask.lab.plot import _draw, plot

pytest.importorskip("matplotlib", reason="plots need the extra [plot]")
from matplotlib.figure import Figure

PANELS = [
    Panel(
        f"panel {i}",
        "k",
        "trace",
        [Line("measured", [1, 2, 3], [3.0, 2, 1], [0.1, 0.1, 0.1]), Line("bound", [1, 2, 3], [4.0, 3, 2], theory=True)],
        log_y=True,
    )
    for i in range(4)
]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_is_a_function_of_its_panels(tmp_path, suffix):
    for name in ("one", "two"):
        plot(PANELS, tmp_path / f"{name}{suffix}", "title")
    one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
    assert one == two
    assert 10_000 < len(one) < 400_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one{suffix}", f"two{suffix}"]


def test_bad_names(tmp_path):
    with pytest.raises(BadInput, match=r"ends in \.png or \.svg"):
        plot(PANELS, tmp_path / "plot.pdf")
    with pytest.raises(BadInput, match="there is no folder"):
        plot(PANELS, tmp_path / "nowhere" / "plot.png")
    assert not list(tmp_path.iterdir())


def test_limits_cut_the_y_axis_of_their_panel():
    line = Line("measured", [1, 2, 3], [3.0, 2, 900])
    whole, cut = Figure().subplots(1, 2)
    _draw(whole, Panel("whole", "k", "trace", [line]))
    _draw(cut, Panel("cut", "k", "trace", [line], limits=(0, 10)))
    assert whole.get_ylim()[1] > 900
    assert cut.get_ylim() == (0, 10)


def test_a_few_places_on_a_logarithmic_axis_are_written_out():
    axes = Figure().subplots()
    _draw(axes, Panel("beams", "beam", "nats", [Line("measured", [1, 5, 20], [3.0, 2, 1])], log_x=True))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "20"]
    many = Figure().subplots()
    _draw(many, Panel("many", "beam", "nats", [Line("measured", list(range(1, 30)), [1.0] * 29)], log_x=True))
    assert len(many.get_xticks()) < 29
    close = Figure().subplots()
    _draw(close, Panel("close", "beam", "nats", [Line("measured", [5.0, 5.1, 20], [3.0, 2, 1])], log_x=True))
    assert "5.1" not in [label.get_text() for label in close.get_xticklabels()], "they would lie on each other"
