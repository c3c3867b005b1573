"""What `remask lab mixing` prints, held to kernels, closed forms and the notes."""

import json
import math

import pytest
import torch

from remask.core.errors import BadInput, UnknownName
from remask.lab import kernels
from remask.lab.graphs import edges_of
from remask.lab.kernels import block_kernel, escape_time, gap, mask_independent_kernel, stationary, synchronous_kernel
from remask.lab.laws import ising, potts, spins_of
from remask.lab.mixing import COLUMNS, Mixing, chains, log_stay, row_of
from remask.lab.tensorisation import tensorisation


@pytest.fixture(scope="module")
def found():
    return Mixing(size=3, steps=40).run()


def rows_of(findings, chain):
    return [row for row in findings.rows if row["chain"] == chain]


def test_rows_are_plain_numbers_with_the_same_keys(found):
    text = json.dumps(found.rows, allow_nan=False)
    assert json.loads(text) == found.rows
    assert all(tuple(row) == COLUMNS for row in found.rows)
    assert [(row["chain"], row["k"]) for row in found.rows] == [
        ("gibbs_k", 1),
        ("gibbs_k", 2),
        ("gibbs_k", 3),
        ("parallel", None),
        ("mask_independent", 2),
        ("mask_independent", 3),
    ]
    assert Mixing(size=3, steps=40).run() == found


def test_rows_are_those_of_the_kernels(found):
    law = ising(3, 0.5, 0.1)
    target = spins_of(3).sum(1) >= 0
    made = [block_kernel(law, k) for k in (1, 2, 3)] + [synchronous_kernel(law)]
    made += [mask_independent_kernel(law, k) for k in (2, 3)]
    for row, matrix in zip(found.rows, made):
        kept = stationary(matrix)
        assert row["gap"] == pytest.approx(gap(matrix, kept), rel=1e-9)
        assert row["relaxation"] == pytest.approx(1 / row["gap"])
        assert row["escape"] == pytest.approx(escape_time(matrix, 0, target))
        assert row["sweeps"] == pytest.approx(row["escape"] * (row["k"] or 3) / 3)
        assert row["distance"] == pytest.approx(kernels.total_variation(kept, law), abs=1e-12)
    for row in rows_of(found, "gibbs_k"):
        assert row["distance"] < 1e-12
        assert row["calls"] == row["escape"] * row["k"]
        assert row["tensorisation"] == tensorisation(law, row["k"]).constant
        assert row["bound"] == pytest.approx(min(1, math.sqrt(row["tensorisation"] * 0.01 / 2)))
    assert [row["calls"] == row["escape"] for row in found.rows[3:]] == [True] * 3
    assert [row["distance"] > 1e-3 for row in found.rows[3:]] == [True] * 3
    assert [row["tensorisation"] for row in found.rows[3:]] == [None] * 3


def test_the_notes_through_the_command():
    """6 cells, J (m - 1) = 2, h = .1: escapes of the table."""
    rows = Mixing(size=6, coupling=0.4, field=0.1, steps=5).run()
    single, whole = rows_of(rows, "gibbs_k")[0], rows_of(rows, "gibbs_k")[-1]
    assert rows_of(rows, "parallel")[0]["escape"] == pytest.approx(146.5, abs=0.05)
    assert single["sweeps"] == pytest.approx(47, abs=0.5)
    assert whole["escape"] == pytest.approx(1.32, abs=0.005)
    assert "use gibbs with blocks of 6 (a fresh draw of the whole row)" in rows.says[0]
    assert "after 147 steps" in rows.says[1]


@pytest.mark.parametrize(("graph", "size"), [("clique", 5), ("ring", 5), ("path", 4), ("grid", 6), ("random", 5)])
def test_one_step_of_the_parallel_chain_in_closed_form(graph, size):
    edges, law = edges_of(graph, size, 2), ising(size, 0.45, 0.15, graph, 2)
    kernel = synchronous_kernel(law)
    assert math.exp(log_stay(edges, size, 0.45, 0.15)) == pytest.approx(float(kernel[0, 0]), rel=1e-12)
    leave = -math.expm1(log_stay(edges, size, 0.45, 0.15))
    assert escape_time(kernel, 0, spins_of(size).sum(1) >= 0) >= 1 / leave
    if graph == "clique":
        assert log_stay(edges, size, 0.45, 0.15) == pytest.approx(-size * math.log1p(math.exp(-2 * (0.45 * 4 - 0.15))))


def test_panels_show_measurements_beside_theory(found):
    panels = {panel.title: {line.name: line for line in panel.lines} for panel in found.panels}
    assert all(any(line.theory for line in lines.values()) for lines in panels.values())
    for lines in panels.values():
        assert all(len(line.x) == len(line.y) and all(map(math.isfinite, line.y)) for line in lines.values())
    gaps = panels["gap of one update"]
    assert all(y <= free + 1e-9 for y, free in zip(gaps["gibbs"].y, gaps["k / L, an upper bound"].y))
    escapes = panels["escape from all -1"]
    floor = escapes["1 / (1 - P(stay)), parallel"]
    assert all(y >= least for y, least in zip(escapes["parallel, steps"].y, floor.y))
    assert escapes["parallel, steps"].x[4] == 0.5
    assert escapes["parallel, steps"].y[4] == pytest.approx(rows_of(found, "parallel")[0]["escape"])
    distances = panels["from all -1 to p"]
    most = distances["bound by the gap, k = 1"]
    assert all(y <= limit for y, limit in zip(distances["gibbs k = 1"].y, most.y))
    assert distances["gibbs k = 3"].y[1] < 1e-12
    assert distances["parallel"].y[-1] == pytest.approx(rows_of(found, "parallel")[0]["distance"], abs=1e-3)
    constants = panels["tensorisation constant"]
    least = constants["1 / gap, a lower bound"].y
    assert all(y >= low - 1e-12 for y, low in zip(constants["found by ascent"].y, least))


def test_panels_can_be_drawn(found, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra [plot]")
    from remask.lab.plot import plot

    plot(found.panels, tmp_path / "mixing.svg")
    assert (tmp_path / "mixing.svg").stat().st_size > 10_000


def test_laws_that_are_no_spins_have_no_escape():
    law = potts(3, 3, 0.5)
    rows = [row_of(chain, law) for chain in chains(law, [1, 3])]
    assert [row["escape"] for row in rows] == [None] * 4
    assert rows[1]["gap"] == pytest.approx(1)
    assert all(row["gap"] > 0 and row["distance"] is not None for row in rows)


def test_couplings_too_strong_to_leave_are_said():
    found = Mixing(coupling=200.0, field=0.0, steps=3).run()
    single, whole = rows_of(found, "gibbs_k")[0], rows_of(found, "gibbs_k")[-1]
    assert (single["gap"], single["relaxation"], single["escape"], single["distance"]) == (0, None, None, None)
    assert (whole["gap"], whole["escape"]) == (pytest.approx(1), pytest.approx(2))
    assert any("k = 1, 2, 3 does not leave where it begins" in sentence for sentence in found.says)
    assert any("depends on where it begins" in sentence for sentence in found.says)
    json.dumps(found.rows, allow_nan=False)


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_laws(size):
    found = Mixing(size=size, steps=3).run()
    assert rows_of(found, "gibbs_k")[-1]["gap"] == pytest.approx(1)
    if size == 1:
        assert "keeps p" in found.says[1]


def test_independent_cells_make_every_chain_right():
    found = Mixing(size=3, coupling=0.0, steps=3).run()
    assert max(row["distance"] for row in found.rows) < 1e-12
    assert [row["gap"] for row in rows_of(found, "gibbs_k")] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.says[2] == "Drawing k masked cells independently keeps p."


@pytest.mark.slow
def test_more_cells_than_can_be_enumerated_are_run():
    found = Mixing(graph="path", size=13, coupling=0.2, field=0.0, rows=64, moves=300).run()
    json.dumps(found.rows, allow_nan=False)
    assert [(row["chain"], row["k"], row["gap"]) for row in found.rows] == [("gibbs_k", 1, None), ("gibbs_k", 2, None)]
    assert all(tuple(row) == COLUMNS for row in found.rows)
    relaxation = 13 / (1 - math.tanh(0.4))  # of a ring
    first = found.rows[0]
    assert 0.75 < first["autocorrelation"] / (2 * relaxation) < 1 + 3 * first["autocorrelation_stderr"] / relaxation
    assert found.rows[1]["autocorrelation"] < 0.7 * first["autocorrelation"]
    assert "too many to enumerate" in found.says[0]
    short = Mixing(graph="ring", size=13, coupling=0.6, rows=4, moves=50).run()
    assert any("too short to trust: type --moves 200" in sentence for sentence in short.says)
    assert torch.tensor([line.y for line in short.panels[0].lines]).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 0}, "type 1 or more"),
        ({"steps": 0}, "type 1 or more"),
        ({"moves": 3}, "type 50 or more"),
        ({"excess": -1.0}, "type 0 or more"),
        ({"excess": math.nan}, "type 0 or more"),
        ({"coupling": math.inf}, "overflow"),
        ({"size": 16}, "or --graph path"),
        ({"size": 2000, "graph": "path"}, "too many to know"),
    ],
)
def test_what_cannot_be_served(settings, says):
    with pytest.raises(BadInput, match=says):
        Mixing(**settings).run()


def test_an_unknown_graph_is_named():
    with pytest.raises(UnknownName, match="did you mean 'ring'"):
        Mixing(graph="rings").run()
