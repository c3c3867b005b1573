"""The report of the frontier: every bar is read off the row that it is about."""

import json

import pytest

from recipes import frontier_report as report

ROW = {
    **{"arm": "net blocks confidence", "sampler": "blocks", "budget": 4.0, "unit": "steps a block", "temperature": 1.0},
    **{"cache": "exact", "length": 512, "batch": 1, "calls": 128.0, "tokens_per_call": 4.0, "calls_over_exact": 4.0},
    **{"quality": 3.5, "true_cross_entropy": 3.5, "true_cross_entropy_stderr": 0.01, "entropy": 5.0},
    **{"divergence": 0.2, "divergence_stderr": 0.01, "path": "bound"},
    **{"loss": 0.03, "loss_stderr": 0.01, "loss_over_exact": 0.05, "loss_over_exact_stderr": 0.01},
    **{"tokens_per_second": 900.0, "ratio": 2.0, "least": 1.8, "most": 2.2, "rounds": 3},
}
BASELINE = {
    **ROW,
    **{"arm": "left to right", "sampler": "left_to_right", "budget": 512.0, "unit": "calls", "calls": 512.0},
    **{"ratio": 1.0, "loss": 0.0, "loss_over_exact": None, "calls_over_exact": None, "tokens_per_call": 1.0},
}
PERFECT = {
    **{**dict.fromkeys(ROW), "arm": "the law itself", "length": 512, "batch": None, "quality": 3.3, "entropy": 5.1},
    **{"true_cross_entropy_stderr": 0.01},
}


@pytest.mark.parametrize(
    ("change", "calls", "blocks"),
    [
        ({}, ["met"], ["met"]),
        ({"loss_over_exact": 0.051, "ratio": 1.99}, ["missed"], ["missed"]),
        ({"calls_over_exact": 3.9, "tokens_per_call": 3.9}, [], []),
        ({"cache": "none"}, ["met"], []),
        ({"batch": 16}, ["met"], []),
    ],
)
def test_bars(change, calls, blocks):
    rows = [PERFECT, BASELINE, {**ROW, **change}]
    assert [line.rsplit(": ", 1)[1] for line in report.fewer_calls(rows)] == calls
    assert [line.rsplit(": ", 1)[1] for line in report.in_blocks(rows)] == blocks


def test_what_is_faster_and_at_what_loss():
    slow = {**ROW, "arm": "slow", "ratio": 0.9, "loss": 0.0}
    (one,) = report.faster([BASELINE, ROW, slow])
    assert one == (
        "* 512 tokens, batch 1: 1 of 2 are faster (net blocks confidence, 4 steps a block: 2.00 [1.80, 2.20] times, "
        "+3.0 ± 1.0 %)"
    )


def test_a_table_and_a_picture(tmp_path, capsys):
    file, picture = tmp_path / "rows.jsonl", tmp_path / "frontier.png"
    filled = {
        "kind": "infill",
        "arm": "net",
        "length": 512,
        "span": 4,
        "sees": "both sides",
        "how": "drawn",
        "calls": 4,
    }
    filled |= {f"{name}{end}": 0.25 for name in ("exact_match", "token_match", "nats") for end in ("", "_stderr")}
    filled |= {"nats_is": "bound"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [PERFECT, BASELINE, ROW, {**ROW, "batch": 16}, filled]))
    report.main([str(file), "--plot", str(picture)])
    out = capsys.readouterr().out
    assert "| batch 1: tokens/s; times left to right | batch 16:" in out
    assert (
        "| net blocks confidence, 4 steps a block | 128 | 4.0 | 3.500 ± 0.010 | ≤ 0.200 ± 0.010 | 5.000 | +3.0 ± 1.0 |"
        in out
    )
    assert "| the law itself | – |" in out
    assert "| net | 512 | 4 | both sides | drawn | 25.0 ± 25.0 | 25.0 ± 25.0 | 0.250 ± 0.250 (bound) | 4 |" in out
    assert len({line.count("|") for line in out.split("**A quarter")[0].splitlines() if line.startswith("|")}) == 1
    assert picture.stat().st_size > 1000
