"""The experiment `efficiency`: rows that agree with the notes, sentences that agree with the rows, and its refusals."""

import json
from itertools import pairwise

import pytest

from remask.cli.flags import describe, fields
from remask.core.errors import BadInput, UnknownName
from remask.lab import EXPERIMENTS
from remask.lab.efficiency import Efficiency
from remask.lab.plot import plot

KEYS = [
    "k",
    "trace",
    "trace_factorised",
    "singular",
    "gap",
    "fisher_trace",
    "trace_averaged",
    "bound",
    "trace_adaptive",
    "trace_uncorrected",
    "bias_uncorrected",
]


def column(rows, key, digits):
    return [None if row[key] is None else round(row[key], digits) for row in rows]


def test_the_rows_are_those_of_the_notes():
    found = Efficiency().run()
    assert [list(row) for row in found.rows] == [KEYS] * 4 and column(found.rows, "k", 0) == [1, 2, 3, 4]
    assert column(found.rows, "trace", 3) == [114.015, 61.119, 47.202, 44.699]
    assert column(found.rows, "trace_factorised", 1) == [114.0, 80.8, 119.2, None]
    assert column(found.rows, "trace_averaged", 3) == [44.906, 44.699, 44.699, 44.699]
    assert column(found.rows, "gap", 5) == [0.02160, 0.06417, 0.17267, 1]
    assert column(found.rows, "fisher_trace", 3) == [44.699] * 4
    assert column(found.rows, "bound", 0) == [2069, 697, 259, 45]
    assert [row["singular"] for row in found.rows[:3]] == [None] * 3
    assert found.rows[3]["singular"].startswith("6 directions, such as J(3,4)")
    assert "couplings are not identified by single-site marginals" in found.rows[3]["singular"]
    json.dumps(found.rows, allow_nan=False)


def test_adaptive_masks_of_the_rows():
    """Without the factor the minimum is wrong wherever there is a choice of masks; with hardness 0 there is none."""
    rows = Efficiency().run().rows
    assert all(row["bias_uncorrected"] > 0.05 for row in rows[:3]) and rows[3]["bias_uncorrected"] < 1e-9
    assert rows[3]["trace_adaptive"] == pytest.approx(rows[3]["trace"])
    for row in Efficiency(hardness=0.0).run().rows:
        assert row["bias_uncorrected"] < 1e-9
        assert row["trace_adaptive"] == pytest.approx(row["trace"]) == pytest.approx(row["trace_uncorrected"])


def test_masks_that_give_the_row_away_have_no_covariance():
    found = Efficiency(hardness=1000.0).run()
    assert found.rows[0]["trace_adaptive"] is None
    assert any(
        text.startswith("At --hardness 1000 the choice of the mask gives the hidden cells away") for text in found.says
    )


def test_the_monte_carlo_check_agrees_and_repeats():
    asked = Efficiency(repeats=100, samples=20000)
    found = asked.run()
    assert [list(row) for row in found.rows] == [[*KEYS, "monte_carlo", "monte_carlo_stderr"]] * 4
    for row in found.rows:
        assert abs(row["monte_carlo"] - row["trace"]) < 3 * row["monte_carlo_stderr"]
    assert any(text.startswith("100 fits to 20000 samples scatter as the theory says") for text in found.says)
    assert asked.run() == found
    assert Efficiency(repeats=100, samples=20000, seed=1).run().rows[0]["monte_carlo"] != found.rows[0]["monte_carlo"]
    assert Efficiency(repeats=1, samples=20000).run().rows[0]["monte_carlo_stderr"] is None


@pytest.mark.parametrize(
    ("graph", "size"), [("ring", 5), ("grid", 6), ("random", 5), ("path", 3), ("clique", 1), ("clique", 2)]
)
def test_other_graphs_keep_the_theorems(graph, size):
    found = Efficiency(graph, size, coupling=0.4, seed=3).run()
    assert len(found.rows) == size and 2 <= len(found.says) <= 6
    for less, more in pairwise(found.rows):
        assert more["trace"] < less["trace"] and more["gap"] > less["gap"]
    for row in found.rows:
        assert row["fisher_trace"] <= row["trace"] * (1 + 1e-9) <= row["bound"] * (1 + 2e-9)
    assert (found.rows[-1]["singular"] is None) == (size == 1)
    json.dumps(found.rows, allow_nan=False)


def test_sentences_carry_the_numbers():
    says = Efficiency().run().says
    assert "2.55 times the samples of maximum likelihood at k = 1" in says[0] and "1.005 times" in says[0]
    assert says[1].startswith("The factorised loss is best at k = 2 (trace 80.83) and cannot be fitted at k = 4")
    assert "at most 2069" in says[2]
    assert "away from the truth at k = 1" in says[3]


def test_panels_set_theory_beside_what_was_found(tmp_path):
    found = Efficiency(repeats=20, samples=20000).run()
    assert [[line.name for line in panel.lines if line.theory] for panel in found.panels] == [
        ["maximum likelihood", "Poincare bound of the joint block"],
        ["gap of k-Gibbs"],
        ["with the factor p(K | x)"],
    ]
    by_name = {line.name: line for line in found.panels[0].lines}
    assert by_name["factorised"].x == [1, 2, 3] and len(by_name["joint block, fits"].error) == 4
    plot(found.panels, tmp_path / "efficiency.png")
    assert (tmp_path / "efficiency.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"size": 11}, "--size came as 11"),
        ({"size": 0}, "a graph of 0 nodes"),
        ({"repeats": 5}, "type --repeats 200 --samples 4000"),
        ({"samples": 5}, "type --repeats 200 --samples 4000"),
        ({"repeats": -1, "samples": 5}, "--repeats came as -1"),
        ({"seed": -1}, "--seed came as -1"),
        ({"repeats": 5, "samples": 10}, "fits to 10 samples at k = 1 run to infinity"),
        ({"hardness": float("nan")}, "--hardness came as nan"),
        ({"coupling": float("inf")}, "overflow"),
        ({"coupling": 1000.0}, "gap is 0"),
        ({"coupling": 5.0}, "the information of this law is singular: it says nothing about"),
        ({"field": 30.0}, "the information of this law is singular: it says nothing about"),
    ],
)
def test_what_cannot_be_served_is_refused(asked, sentence):
    with pytest.raises(BadInput, match=sentence):
        Efficiency(**asked).run()


def test_an_unknown_graph_is_named():
    with pytest.raises(UnknownName, match="no graph named 'rings'; did you mean 'ring'"):
        Efficiency(graph="rings").run()


def test_the_fields_are_flags():
    found = fields("remask.lab.efficiency:Efficiency")
    assert [field.name for field in found] == [
        "graph",
        "size",
        "coupling",
        "field",
        "hardness",
        "repeats",
        "samples",
        "seed",
    ]
    assert all(field.help.endswith(".") for field in found)
    assert "2024" in describe("remask.lab.efficiency:Efficiency").source
    assert EXPERIMENTS.load("efficiency") is Efficiency


@pytest.mark.slow
def test_eight_cells_keep_the_order():
    rows = Efficiency(size=8, coupling=0.2).run().rows
    assert all(more["trace"] < less["trace"] for less, more in pairwise(rows))
