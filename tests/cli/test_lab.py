"""remask lab: what scripts may rely on, what a person sees, and bad input."""

import json

import pytest

from remask.cli.words import run

EFFICIENCY = ["lab", "efficiency", "--graph", "clique", "--size", "4", "--coupling", "0.5", "--field", "0.1"]


def rows(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys, *arguments):
    """The one sentence of a command that ends with status 2."""
    try:
        status = run(list(arguments))
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2
    assert not printed.out
    assert "Traceback" not in printed.err
    return printed.err


def test_efficiency_prints_the_known_traces(capsys):
    found = rows(capsys, *EFFICIENCY)
    assert [row["k"] for row in found] == [1, 2, 3, 4]
    assert [round(row["trace"], 3) for row in found] == [114.015, 61.119, 47.202, 44.699]
    assert [round(row["gap"], 4) for row in found] == [0.0216, 0.0642, 0.1727, 1.0]
    assert {round(row["fisher_trace"], 3) for row in found} == {44.699}
    assert found[3]["trace_factorised"] is None
    assert "not identified" in found[3]["singular"]


def test_mixing_prints_three_chains(capsys):
    found = rows(capsys, "lab", "mixing", "--size", "4", "--coupling", "0.3", "--field", "0.1")
    assert {row["chain"] for row in found} == {"gibbs_k", "parallel", "mask_independent"}
    assert all({"k", "gap", "escape", "distance"} <= set(row) for row in found)
    assert max(row["distance"] for row in found if row["chain"] == "gibbs_k") < 1e-12
    assert min(row["distance"] for row in found if row["chain"] != "gibbs_k") > 0.001


@pytest.mark.parametrize("law", ["random_table", "copy_pairs", "parity", "ring"])
def test_parallel_prints_equal_sums(capsys, law):
    (row,) = rows(capsys, "lab", "parallel", "--law", law, "--schedule", "1,1,2")
    assert row["kl"] == pytest.approx(row["total_correlation"], abs=1e-12)


def test_a_person_sees_a_table_and_what_it_means(capsys, tmp_path):
    plot = tmp_path / "plot.png"
    assert run([*EFFICIENCY, "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "trace" in printed
    assert "\n* " in printed
    assert plot.stat().st_size > 20_000


def test_the_same_command_prints_the_same(capsys):
    again = ["lab", "efficiency", "--graph", "random", "--size", "4", "--seed", "3"]
    assert rows(capsys, *again) == rows(capsys, *again)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["efficiency", "--size", "40"], "cells"),
        (["mixing", "--size", "0"], "1 or more"),
        (["efficiency", "--graph", "cube"], "there is no graph named 'cube'"),
        (["efficiency", "--coupling", "1e308"], "overflow"),
        (["efficiency", "--plot", "plot.pdf"], "ends in .png or .svg"),
        (["parallel", "--schedule", "1,2"], "schedule"),
        (["parallel", "--law", "nothing"], "there is no law named 'nothing'"),
        (["diagnose"], "DIR"),
        (["nothing"], "there is no experiment named 'nothing'"),
        (["parallel", "nowhere", "--data", "embedded"], "there is no checkpoint directory"),
    ],
)
def test_bad_input(capsys, arguments, says):
    assert says in refused(capsys, "lab", *arguments)
