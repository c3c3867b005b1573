"""The frontier from end to end: every row in JSON, a plot beside it, and mistakes as sentences."""

import json
import re
from fractions import Fraction

import pytest
import torch

from remask.bench import BENCHES, frontier_systems
from remask.bench.frontier import Frontier
from remask.bench.frontier_field import open_field
from remask.bench.frontier_systems import Plan, baselines, systems
from remask.cli import main
from remask.core.stream import Stream
from remask.train.checkpoint import load
from tests.bench.frontier_nets import BLOCK, LENGTH, checkpoint, facts

FEW = (
    "--texts 4 --rounds 1 --budgets 1/4,1 --gammas 0.5 --steps-per-block 2 --inners ancestral --temperatures 1.2,1,0.8"
)
ERRORS = ("calls", "seconds", "tokens_per_second", "entropy", "distinct_2", "repetition", "loss", "loss_over_exact")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Nets over the 256 words of the language, others over more, and text."""
    home = tmp_path_factory.mktemp("frontier")
    for name, rest in {
        "masked": {},
        "blocks": {"kind": "blocks"},
        "ar": {"kind": "causal"},
        "scorer": {"kind": "causal", "seed": 1, "fingerprint": "beef"},
        "other": {"words": 255},
        "other_ar": {"words": 255, "kind": "causal"},
        "short": {"length": 8},
        "deep": {"layers": 2},
    }.items():
        checkpoint(home / name, **rest)
    (home / "held.txt").write_text("".join(chr(0x100 + (7 * at) % 256) for at in range(300)))
    return home


@pytest.fixture
def command(home, capsys, monkeypatch):
    """The bench's exit status, its records, and what it said."""
    monkeypatch.chdir(home)

    def call(*words):
        capsys.readouterr()
        try:
            status = main(["bench", "frontier", *map(str, words)])
        except SystemExit as stop:
            status = stop.code
        done = capsys.readouterr()
        return status, done.out, " ".join(done.err.split())

    return call


def records(done):
    status, out, err = done
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_every_system_of_a_known_law(home, command):
    few = FEW.split()
    plot = "law.png"
    rows = records(
        command("masked", "blocks", "--baseline", "ar", "--law", 0, "--lengths", 12, "--batches", "1,2", *few,
                "--plot", plot, "--infill", "--spans", 3, "--json")
    )  # fmt: skip
    filled = [row for row in rows if row.get("kind") == "infill"]
    rows = [row for row in rows if "kind" not in row]
    assert {tuple(sorted(row)) for row in rows} == {tuple(sorted(rows[0]))}
    assert (home / plot).read_bytes()[:4] == b"\x89PNG"
    truth, *rows = rows
    assert (truth["arm"], truth["divergence"], truth["batch"]) == ("the law's own texts", 0, None)
    arms = {row["arm"]: [one for one in rows if one["arm"] == row["arm"]] for row in rows}
    assert {name: len(mine) for name, mine in arms.items()} == {
        "ar left to right": 6,
        "masked first_hitting": 6,
        **dict.fromkeys(("masked ancestral", "masked confidence", "masked blocks", "masked blocks, dual cache"), 4),
        "masked entropy_bound": 2,
        **dict.fromkeys(("blocks blocks first_hitting", "blocks blocks first_hitting, no cache"), 6),
        **dict.fromkeys(("blocks blocks ancestral", "blocks blocks ancestral, no cache"), 2),
    }
    for row in rows:
        assert row["quality"] == row["true_cross_entropy"] > 3
        assert row["calls"] <= row["calls_most"] <= LENGTH
        assert row["tokens_per_call"] == pytest.approx(LENGTH / row["calls"], rel=1e-4)
        assert row["tokens_per_second"] == pytest.approx(1000 / row["seconds"], rel=1e-4)
        assert row["least"] <= row["ratio"] <= row["most"]
        assert row["temperature"] != 1 or row["divergence"] is not None
        assert all(f"{name}_stderr" in row for name in (*ERRORS, "true_cross_entropy", "written_entropy"))
        for name in ("baseline_at_entropy", "exact_at_entropy"):
            lost = row["loss" if name.startswith("b") else "loss_over_exact"]
            assert (row[name] is None) == (lost is None)
            if lost is not None:
                assert lost == pytest.approx(row["quality"] / row[name] - 1, abs=1e-4)
    for row in arms["ar left to right"]:
        assert (row["ratio"], row["calls"]) == (1, LENGTH)
        assert row["baseline_at_entropy"] is not None
    for row in [*arms["masked first_hitting"], *arms["blocks blocks first_hitting"]]:
        assert (row["calls"], row["calls_over_exact"]) == (LENGTH, 1)
        assert row["exact_at_entropy"] is not None
    for row in arms["masked confidence"]:
        assert row["calls"] == row["budget"] == pytest.approx(LENGTH / row["calls_over_exact"])
    for cached, plain in zip(arms["blocks blocks ancestral"], arms["blocks blocks ancestral, no cache"]):
        assert (cached["cache"], plain["cache"]) == ("exact", "none")
        assert cached["true_cross_entropy"] == plain["true_cross_entropy"]
        assert cached["calls_most"] <= 2 * LENGTH / BLOCK
    for cached, plain in zip(
        arms["masked blocks, dual cache"], arms["masked blocks"]
    ):  # one block: nothing stands still
        assert (cached["cache"], plain["cache"]) == ("dual", None)
        assert cached["true_cross_entropy"] == plain["true_cross_entropy"]
    assert {row["arm"] for row in filled} == {"masked", "blocks", "ar left to right", "the law itself"}
    assert {row["nats_is"] for row in filled if row["arm"] in ("masked", "blocks")} == {"bound"}


def test_real_text_is_weighed_by_a_scorer(home, command):
    words = ["masked", "--baseline", "ar", "--scorer", "scorer", "--data", "held.txt", "--batches", 2, "--lengths", 8]
    rows = records(command(*words, *FEW.split(), "--samplers", "first_hitting,confidence", "--plot", "", "--json"))
    assert rows[0]["arm"] == "held-out text"
    assert {row["sampler"] for row in rows} == {"none", "left_to_right", "first_hitting", "confidence"}
    assert all(row["quality"] == row["generative_perplexity"] > 1 for row in rows)
    assert all(row["generative_perplexity_stderr"] > 0 for row in rows)
    assert not (home / "frontier.png").exists()


def test_a_table_for_people(home, command):
    words = ["masked", "--baseline", "ar", "--law", 0, "--lengths", 8, "--batches", 1, "--infill", "--spans", 2]
    status, out, _ = command(*words, *FEW.split(), "--samplers", "confidence", "--plot", "people.svg")
    assert status == 0
    assert (home / "people.svg").read_text().startswith("<?xml")
    assert "bench frontier: infill" in " ".join(out.split())


def test_a_scorer_that_read_the_same_text_is_remarked_on(home, command):
    words = ["masked", "--baseline", "ar", "--scorer", "scorer", "--lengths", 8, "--batches", 1, "--plot", ""]
    plan = [*words, *FEW.split(), "--samplers", "confidence", "--json"]
    assert "fingerprint" not in command(*plan)[2]
    facts(home / "scorer", data={"fingerprint": "f00d"})
    try:
        status, _, said = command(*plan)
    finally:
        facts(home / "scorer", data={"fingerprint": "beef"})
    assert status == 0
    assert "the scorer scorer was trained on the text of masked (fingerprint f00d)" in said


LAW = ("--law", "0", "--lengths", "8", "--plot", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "CHECKPOINT"),
        (("masked",), "--baseline AR"),
        (("masked", "--baseline", "ar"), "type --law SEED"),
        (("masked", "--baseline", "ar", "--law", "0", "--scorer", "scorer"), "one judge"),
        (("masked", "--baseline", "other_ar", *LAW), "other tokens than masked"),
        (("masked", "--baseline", "blocks", *LAW), "does not go from left to right"),
        (("ar", "--baseline", "ar", *LAW), "autoregressive net"),
        (("masked", "--baseline", "nowhere", *LAW), "nowhere"),
        (("nowhere", "--baseline", "ar", *LAW), "nowhere"),
        (("masked", "--baseline", "ar", *LAW, "--lengths", "13"), "masked reads 12 tokens"),
        (("short", "--baseline", "ar", *LAW, "--lengths", "12"), "short reads 8 tokens"),
        (("other", "--baseline", "other_ar", *LAW), "256 words and the checkpoints 255 tokens"),
        (("masked", "--baseline", "ar", "--scorer", "masked", "--lengths", "8", "--plot", ""), "no left-to-right net"),
        (("masked", "--baseline", "ar", "--scorer", "other_ar", "--lengths", "8", "--plot", ""), "other tokens"),
        (("masked", "--baseline", "ar", *LAW, "--samplers", "magic"), "no sampler named 'magic'"),
        (("masked", "--baseline", "ar", *LAW, "--batches", "0"), "--batches came as 0"),
        (("masked", "--baseline", "ar", *LAW, "--budgets", "2"), "--budgets came as 2"),
        (("masked", "--baseline", "ar", *LAW, "--temperatures", "0"), "--temperatures came as 0"),
        (("masked", "--baseline", "ar", *LAW, "--texts", "1"), "--texts came as 1"),
        (("masked", "--baseline", "ar", *LAW, "--plot", "a.pdf"), ".png or .svg"),
        (("masked", "--baseline", "ar", *LAW, "--plot", "no/a.png"), "no folder 'no'"),
        (("masked", "--baseline", "ar", "--scorer", "scorer", "--infill"), "without held-out text"),
    ],
    ids=str,
)
def test_bad_input_is_a_sentence(command, words, said):
    status, _, err = command(*words)
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_special_tokens_are_never_written_and_a_window_is_filled_to_its_end(home):
    place = open_field([str(home / "masked"), str(home / "blocks")], str(home / "ar"), [LENGTH])
    (first,) = baselines(place, [1.0], LENGTH)
    plan = Plan(["first_hitting", "blocks"], [1], [], [2], ["ancestral"], [1.0], [1.0])
    found = [first, *(one for name, model in place.models.items() for one in systems(name, model, plan, LENGTH))]
    special = torch.tensor(sorted(load(home / "masked").alphabet.special))
    for one in found:
        texts = one.write(LENGTH, Stream.of(0, 20))
        assert texts.tokens.shape == (20, LENGTH)
        assert not torch.isin(texts.tokens, special).any()
    assert torch.isin(torch.multinomial(torch.ones(260), 240), special).any()  # 240 blind draws would show one


def test_a_cache_changes_no_text(home):
    place = open_field([str(home / "blocks")], str(home / "ar"), [LENGTH])
    plan = Plan([], [1], [], [1, 2], ["ancestral", "confidence"], [1.0], [1.0, 0.8])
    place.models["blocks"].net.double()
    groups = {}
    for one in systems("blocks", place.models["blocks"], plan, LENGTH):
        groups.setdefault(one.quality_key, []).append(one.write(LENGTH, Stream.of(0, 6)))
    assert len(groups) == 1 + 2 * 2 * 2
    for cached, plain in groups.values():
        assert torch.equal(cached.tokens, plain.tokens)
        assert torch.equal(cached.calls, plain.calls)
    for kept in ("exact", "none"):
        alone = systems("blocks", place.models["blocks"], plan._replace(block_caches=(kept,)), LENGTH)
        assert {one.cache for one in alone} == {kept}
        assert len(alone) == len(groups)


@pytest.mark.parametrize(("name", "blocks"), [("masked", 3), ("deep", 1), ("deep", 3)])
def test_an_approximate_cache_forgets_what_other_blocks_learnt(home, monkeypatch, name, blocks):
    """The net is asked as often; what it says differs where others read the block: not in one layer or one block."""
    monkeypatch.setattr(frontier_systems, "SIZE", LENGTH // blocks)
    place = open_field([str(home / name)], str(home / "ar"), [LENGTH])
    place.models[name].net.double()
    plan = Plan(["blocks"], [Fraction(1, 2)], [], [], [], [1.0], [1.0], ["none", "dual"])
    found = systems(name, place.models[name], plan, LENGTH)
    assert [one.cache for one in found] == [None, "dual"]
    exact, dual = (one.write(LENGTH, Stream.of(0, 40)) for one in found)
    assert torch.equal(exact.calls, dual.calls)
    apart = (exact.log_prob - dual.log_prob).abs().max()
    assert apart > 1e-6 if (name, blocks) == ("deep", 3) else apart < 1e-9, apart


def test_it_is_a_bench_with_flags(capsys):
    assert BENCHES.load("frontier") is Frontier
    with pytest.raises(SystemExit):
        main(["bench", "frontier", "--help"])
    text = capsys.readouterr().out
    assert "CHECKPOINT" in text
    for flag in ("--baseline", "--law", "--scorer", "--lengths", "--batches", "--budgets", "--plot", "--infill"):
        assert re.search(rf"{flag}\b", text)
