"""What `remask lab diagnose` says of laws whose answers are known, of conditionals that fit no law, and of nets."""

import json
import math

import pytest
import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import BadData, BadInput
from remask.data.corpus import prepare
from remask.lab import compatibility, diagnose
from remask.lab.correlation import information_curve, subset_entropies
from remask.lab.diagnose import Diagnose, unigram_log_prob
from remask.lab.laws import ising, random_table
from remask.nets import encoder
from remask.nets.wrap import Temperature
from remask.train.checkpoint import write_net

LAW = ising(6, 0.2, 0.1)
KEYS = ["measure", "at", "value", "stderr", "unit", "n", "lower_bound"]


def total(rows):
    return rows.double().sum(1)


def examined(conditional, law=LAW, **settings):
    plan = Diagnose("", **{"rows": 200, "length": law.length, "orders": 4, "moves": 120, "size": 2, **settings})
    return plan.examine(conditional, conditional, law.sample(plan.rows, 1), total)


@pytest.fixture(scope="module")
def found():
    return examined(LAW)


def table(findings):
    return {(row["measure"], row["at"]): row for row in findings.rows}


def test_rows_are_plain_and_the_same_twice(found):
    assert json.loads(json.dumps(found.rows, allow_nan=False)) == found.rows
    assert all(list(row) == KEYS for row in found.rows)
    assert len(table(found)) == len(found.rows)
    assert examined(LAW, rows=20, moves=12) == examined(LAW, rows=20, moves=12)
    assert examined(LAW, rows=20, moves=12) != examined(LAW, rows=20, moves=12, seed=1)


def test_one_law_is_found_to_be_one(found):
    value = table(found)
    assert value["order_spread", None]["value"] < 1e-10
    assert abs(value["left_to_right_gain", None]["value"]) < 1e-10
    for name in ("anywhere", "neighbours"):
        assert value["cycle_rms", name]["value"] < 1e-10
        assert value["log_odds_rms", name]["value"] == pytest.approx(4 * 0.2)  # of two spins, all others given
    per_token = value["random_orders", None]
    assert abs(per_token["value"] - LAW.entropy / 6) < 3 * per_token["stderr"]
    assert "this is one joint law" in found.says[0]


def test_what_parallel_steps_cost_is_what_the_exact_curve_says(found):
    value, curve = table(found), information_curve(subset_entropies(LAW))
    for steps in (1, 2, 4):
        row = value["ancestral_loss", steps]
        assert abs(row["value"] - float(compatibility.ancestral_loss(curve, steps)) / 6) < 3 * row["stderr"]
    exact = compatibility.fewest_steps(curve, 0.05 * 6, 1000)
    assert value["ancestral_steps", None]["value"] == pytest.approx(exact, abs=2)
    seen = value["cross_entropy", "6 masked"]
    assert abs(seen["value"] - float(curve[0])) < 3 * seen["stderr"]
    bound = value["entropy_bound_loss_at_most", 0.05]
    assert bound["value"] == pytest.approx(0.05 * value["entropy_bound_calls", 0.05]["value"] / 6)
    assert bound["value"] <= 0.05


def test_chains_that_mix_and_chains_that_do_not(found):
    value = table(found)
    assert not value["gibbs_time", 2]["lower_bound"]
    assert abs(value["gibbs_drift", 2]["value"]) < 4 * value["gibbs_drift", 2]["stderr"]
    assert value["gibbs_calls", 2]["value"] == pytest.approx(2 * value["gibbs_time", 2]["value"])
    assert "have met" in found.says[2]
    stuck = examined(ising(6, 1.0, 0.3), ising(6, 1.0, 0.3), rows=60, moves=30)
    assert "have not met" in stuck.says[2]
    slow = examined(LAW, rows=4, moves=12)
    assert table(slow)["gibbs_time", 2]["lower_bound"]
    assert "longer than the run" in slow.says[2]


def test_conditionals_that_fit_no_law_are_seen():
    """Planted: a temperature makes conditionals of which no law has all."""
    law = random_table(6, 2, 1.0, seed=0)
    found = examined(Temperature(law, 0.4), law, rows=40, moves=20)
    row = table(found)["order_spread", None]
    assert row["value"] > 5 * row["stderr"] > 0 and row["value"] > 0.05
    assert "this is not one joint law" in found.says[0]


def test_advice_follows_the_tolerance():
    loose, tight = (examined(LAW, rows=40, moves=20, tolerance=t) for t in (0.2, 0.001))
    assert "take ancestral --steps" in loose.says[3]
    assert "first_hitting, 6 calls" in tight.says[3]
    assert "--gamma 0.001" in tight.says[4]


def test_panels_have_their_theory(found, tmp_path):
    assert all(any(line.theory for line in panel.lines) for panel in found.panels)
    numbers = [n for panel in found.panels for line in panel.lines for n in (*line.x, *line.y)]
    assert all(map(math.isfinite, numbers))
    pytest.importorskip("matplotlib", reason="plots need the extra [plot]")
    from remask.lab.plot import plot

    plot(found.panels, tmp_path / "diagnose.svg")


def test_the_statistic_is_the_mean_log_share():
    statistic = unigram_log_prob(torch.tensor([[0, 0, 1]]), 3)
    share = torch.tensor([3 / 6, 2 / 6, 1 / 6], dtype=torch.float64)
    assert statistic(torch.tensor([[0, 2]])).tolist() == pytest.approx([float((share[0] * share[2]).log()) / 2])


TEXT = "".join(
    f"line {i} of a text that is long enough to be held out by its paragraphs, number {i * i}.\n\n" for i in range(300)
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "text.txt").write_text(TEXT)
    corpus = prepare([str(folder / "text.txt")], tokenizer="character", length=12)
    alphabet = Alphabet(len(corpus.tokenizer), 1, 0, 2, frozenset((0, 1, 2, 3)))
    text = {"data": [str(folder / "text.txt")], "valid": [], "column": "text", "document": "file", "unique": None}
    facts = {"recipe": {"text": {**text, "held_out": 0.1}, "training": {"seed": 0}}}
    write_net(folder / "net", encoder.build("tiny", alphabet, 12, seed=1), corpus.tokenizer, facts)
    return folder, corpus


def test_a_checkpoint_on_what_was_held_out(directory):
    folder, corpus = directory
    plan = Diagnose(str(folder / "net"), (str(folder / "text.txt"),), rows=3, length=12, orders=2, moves=8, size=2)
    from remask.train.checkpoint import load

    held = diagnose._packed(load(plan.checkpoint), plan.data, 12)
    assert torch.equal(held.tokens, corpus.valid.tokens)
    other = folder / "other.txt"
    other.write_text(TEXT[:500])
    assert len(diagnose._packed(load(plan.checkpoint), (str(other),), 12).tokens) == 501 // 12
    found = plan.run()
    assert found == plan.run()
    value = table(found)
    assert value["order_spread", None]["value"] > 1e-4  # an untrained net is no law
    assert value["random_orders", None]["n"] == 3
    assert len(found.says) == 5


def test_what_cannot_be_served(directory):
    folder, _ = directory
    net, text = str(folder / "net"), (str(folder / "text.txt"),)
    for settings, message in (
        ({"rows": 1}, "--rows came as 1"),
        ({"size": 99}, "--size came as 99"),
        ({"moves": 3}, "--moves came as 3"),
        ({"tolerance": math.nan}, "--tolerance came as nan"),
    ):
        with pytest.raises(BadInput, match=message):
            Diagnose(net, text, **settings)
    with pytest.raises(BadInput, match="beyond the 12"):
        Diagnose(net, text).run()
    short = folder / "short.txt"
    short.write_text("only one row of text")
    with pytest.raises(BadData, match="too few"):
        Diagnose(net, (str(short),), length=12).run()
