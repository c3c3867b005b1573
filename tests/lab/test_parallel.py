"""The experiment `parallel`: rows that agree with enumeration and the notes, on laws and on a small net."""

import json
import math

import pytest
import torch

from remask.cli.flags import describe, fields
from remask.core.errors import BadData, BadInput, UnknownName, UserError
from remask.data.tokenizers import alphabet, byte_tokenizer
from remask.lab import EXPERIMENTS, parallel
from remask.lab.graphs import GRAPHS
from remask.lab.parallel import LAWS, MEASURED, Parallel
from remask.lab.plot import plot
from remask.nets.encoder import build
from remask.train.checkpoint import write_net
from tests.nets.tiny import shake
from tests.train.runs import prose

KEYS = [
    *("steps", "schedule", "kl", "kl_stderr", "total_correlation", "kl_mixture", "total_variation", "orders"),
    *("expected", "bound", "uniform", "cosine", "optimal", "optimal_schedule"),
    *("left_to_right", "partition", "best_partition"),
]
LENGTH = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A shaken net that reads bytes: it knows nothing, but its cells know of each other."""
    folder = tmp_path_factory.mktemp("net")
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build("tiny", alphabet(tokenizer), LENGTH)
    shake(net.model, 0, 0.05)
    write_net(folder, net, tokenizer, {})
    return str(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "held.txt"
    path.write_text(prose(4, 1), encoding="utf-8")
    return str(path)


def of_kind(found, kind):
    return [row for row in found.rows if row["kind"] == kind]


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_the_frontier_of_the_notes_table():
    found = Parallel().run()
    assert [list(row) for row in found.rows] == [KEYS] * 4
    assert [row["schedule"] for row in found.rows] == ["4", "2,2", "2,1,1", "1,1,1,1"]
    assert [round(row["kl"], 3) for row in found.rows] == [0.807, 0.342, 0.064, 0.0]
    assert found.rows[1]["best_partition"] == "2,3|1,4" and found.rows[1]["optimal_schedule"] == "3,1"
    for row in found.rows:
        assert abs(row["kl"] - row["total_correlation"]) < 1e-12 and abs(row["kl"] - row["expected"]) < 1e-12
        assert row["partition"] <= row["optimal"] + 1e-12 <= row["uniform"] + 2e-12 <= row["bound"] + 3e-12
        assert row["optimal"] <= row["cosine"] + 1e-12 and row["kl_mixture"] <= row["kl"] + 1e-12
        assert row["kl_stderr"] == 0
    json.dumps(found.rows, allow_nan=False)


def test_a_schedule_is_one_object():
    (row,) = Parallel(schedule="1,1,2").run().rows
    assert row["schedule"] == "1,1,2" and row["orders"] == 12 and row["kl"] == pytest.approx(0.27794, abs=1e-5)
    assert abs(row["kl"] - row["total_correlation"]) < 1e-12
    assert row["uniform"] == pytest.approx(0.06420, abs=1e-5) and row["left_to_right"] == pytest.approx(
        0.38122, abs=1e-5
    )


def test_two_equal_bits():
    one, two = Parallel(law="copy_pairs", size=2, symbols=2).run().rows
    assert one["kl"] == pytest.approx(math.log(2), abs=1e-12) and one["total_variation"] == pytest.approx(0.5)
    assert two["kl"] == two["total_correlation"] == two["total_variation"] == 0


@pytest.mark.parametrize("law", LAWS)
def test_every_law_keeps_the_identity(law):
    found = Parallel(law=law, size=5, symbols=2, coupling=0.7, seed=2).run()
    assert len(found.rows) == 5 and 3 <= len(found.says) <= 5
    for row in found.rows:
        assert abs(row["kl"] - row["total_correlation"]) < 1e-12 and abs(row["kl"] - row["expected"]) < 1e-12
        assert row["kl"] <= row["bound"] + 1e-12
    assert "agree." in found.says[2]
    assert Parallel(law=law, size=5, symbols=2, coupling=0.7, seed=2).run().rows == found.rows


def test_a_broken_sampler_is_told(monkeypatch):
    """Planted: a sampler that forgets what it has written; the experiment itself says that something is wrong."""
    monkeypatch.setattr(parallel.Sampled, "_given", lambda self, seen, ask=parallel.Sampled._given: ask(self, []))
    found = Parallel().run()
    assert abs(found.rows[1]["kl"] - found.rows[1]["total_correlation"]) > 0.1
    assert any("a bug, please report it" in text for text in found.says)


def test_many_cells_are_drawn_and_say_so():
    found = Parallel(law="ring", size=9, schedule="3,3,3").run()
    (row,) = found.rows
    assert row["kl_stderr"] > 0 and abs(row["kl"] - row["total_correlation"]) < 1e-12
    assert abs(row["kl"] - row["expected"]) < 3 * row["kl_stderr"]
    assert any("were drawn" in text for text in found.says)
    (row,) = Parallel(law="ring", size=13, schedule="7,6").run().rows
    assert row["partition"] is None and row["best_partition"] is None


def test_panels_of_a_law(tmp_path):
    found = Parallel(law="ring", size=6).run()
    assert [[line.name for line in panel.lines if line.theory] for panel in found.panels] == [
        ["even sizes, from the curve", "bound of even sizes"],
        ["entropy of a row / cells"],
    ]
    plot(found.panels, tmp_path / "parallel.png")
    assert (tmp_path / "parallel.png").stat().st_size > 10_000


def test_every_graph_is_a_law():
    assert set(GRAPHS) < set(LAWS)


def test_sentences_carry_the_numbers():
    says = Parallel().run().says
    assert "in one step lose 0.8066 nats" in says[0] and "2 steps 2,2 in random order lose 0.3421" in says[0]
    assert says[1] == "In as many steps the best sizes 3,1 lose 0.2964, and the best cells 2,3|1,4 0.2016."
    assert "KL 0.2177 and total variation 0.2376" in says[3]


# ---- conditionals ----------------------------------------------------------------------------------------------------


def test_a_long_chain_is_measured():
    found = Parallel(law="markov", size=32, symbols=3, pairs=360).run()
    assert all(list(row) == list(MEASURED) for row in found.rows)
    assert [row["steps"] for row in of_kind(found, "steps")] == [1, 2, 4, 8, 16, 32]
    losses = [row["uniform"] for row in of_kind(found, "steps")]
    assert losses == sorted(losses, reverse=True) and losses[-1] == 0
    for row in of_kind(found, "steps"):
        assert row["uniform"] <= row["bound"] + 1e-12
    for row in of_kind(found, "pairs"):
        if row["slope"] is not None:
            error = math.hypot(row["information_stderr"], row["slope_stderr"])
            assert abs(row["information"] - row["slope"]) < 4 * error
    json.dumps(found.rows, allow_nan=False)


def test_a_short_chain_measured_agrees_with_the_chain_enumerated(monkeypatch):
    asked = Parallel(law="markov", size=8, symbols=3, schedule="4,4", rows=2000, pairs=0)
    (exact,) = asked.run().rows
    monkeypatch.setattr(parallel, "MOST_PATTERNS", 0)
    (row,) = of_kind(asked.run(), "steps")
    assert abs(8 * row["asked"] - exact["expected"]) < 3 * 8 * row["asked_stderr"]
    assert row["asked"] == row["uniform"] and row["schedule"] == "4,4" and row["pairs"] is None


def test_a_net_on_a_text(checkpoint, text, tmp_path):
    asked = Parallel(checkpoint, (text,), rows=4, pairs=36 * 2)
    found = asked.run()
    assert all(list(row) == list(MEASURED) for row in found.rows)
    assert {row["kind"] for row in found.rows} == {"curve", "pairs", "steps"}
    assert [row["masked"] for row in of_kind(found, "pairs") if row["slope"] is not None] == [16, 12, 8, 4]
    assert [row["steps"] for row in of_kind(found, "steps")] == [1, 2, 4, 8, 16]
    assert all(row["information"] >= 0 for row in of_kind(found, "pairs"))
    assert of_kind(found, "steps")[-1]["optimal_schedule"] == ",".join(["1"] * 16)
    assert any("conditionals of the net are the data's" in text for text in found.says)
    json.dumps(found.rows, allow_nan=False)
    assert asked.run() == found
    assert Parallel(checkpoint, (text,), rows=4, pairs=36 * 2, seed=1).run().rows != found.rows
    plot(found.panels, tmp_path / "parallel.png")
    assert len(found.panels) == 4 and (tmp_path / "parallel.png").stat().st_size > 10_000


def test_a_net_and_a_schedule_of_its_own(checkpoint, text):
    found = Parallel(checkpoint, (text,), schedule="2,4,4", length=10, rows=4, pairs=0).run()
    (row,) = of_kind(found, "steps")
    assert row["schedule"] == "2,4,4" and row["asked"] is not None and not of_kind(found, "pairs")
    assert len(found.panels) == 2 and any(text.startswith("The sizes asked for lose") for text in found.says)


# ---- what cannot be served -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"schedule": "1,x"}, "--schedule came as '1,x'"),
        ({"schedule": "1,1"}, "the schedule 1,1 does not open 4 cells"),
        ({"schedule": "4,0"}, "the schedule 4,0 does not open 4 cells"),
        ({"law": "markov", "size": 40, "schedule": "1,1"}, "does not open 40 cells"),
        ({"size": 0}, "both must be 1 or more"),
        ({"symbols": 0}, "both must be 1 or more"),
        ({"law": "markov", "size": 40, "symbols": 0}, "both must be 1 or more"),
        ({"law": "ring", "size": 21}, "more than the 2\\^20"),
        ({"law": "ring", "size": 16}, "more than the five million"),
        ({"law": "parity", "size": 30}, "more than the 2\\^20"),
        ({"law": "clique", "coupling": float("inf")}, "overflow"),
        ({"rows": 1}, "--rows came as 1"),
        ({"seed": -1}, "--seed came as -1"),
        ({"pairs": -1}, "--pairs came as -1"),
        ({"law": "markov", "size": 40, "pairs": 5}, "--pairs came as 5: type 36 or more, or 0"),
        ({"data": ("a.txt",)}, "--data came without a checkpoint"),
        ({"checkpoint": "a"}, "a checkpoint came without a text"),
        ({"checkpoint": "nowhere", "data": ("a.txt",)}, "there is no checkpoint directory"),
    ],
)
def test_what_cannot_be_served_is_refused(asked, sentence):
    with pytest.raises(UserError, match=sentence):
        Parallel(**asked).run()


@pytest.mark.parametrize(("length", "rows"), [(1, 4), (17, 4)])
def test_rows_that_the_net_cannot_read_are_refused(checkpoint, text, length, rows):
    with pytest.raises(BadInput, match=f"--length came as {length}: .* reads rows of 2 to 16 tokens"):
        Parallel(checkpoint, (text,), length=length, rows=rows).run()


def test_a_text_of_one_row_has_no_error(checkpoint, tmp_path):
    (tmp_path / "short.txt").write_text("A short text of one row.")
    with pytest.raises(BadData, match="the text is one row of 16 tokens"):
        Parallel(checkpoint, (str(tmp_path / "short.txt"),)).run()


def test_an_unknown_law_is_named():
    with pytest.raises(UnknownName, match="no law named 'copy_pair'; did you mean 'copy_pairs'"):
        Parallel(law="copy_pair")


def test_the_fields_are_flags():
    found = fields("remask.lab.parallel:Parallel")
    assert [field.name for field in found] == [
        *("checkpoint", "data", "law", "size", "symbols", "coupling", "field"),
        *("schedule", "rows", "length", "pairs", "seed"),
    ]
    assert all(field.help.endswith(".") for field in found)
    assert "2025" in describe("remask.lab.parallel:Parallel").source
    assert EXPERIMENTS.load("parallel") is Parallel
