"""The race: quality is that of `remask translate`, ratios are those of the clock, inputs are joined as they say."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from remask.bench import BENCHES
from remask.bench.engine import Runner, System, runner, runners
from remask.bench.translation import Race, joined, quality, speed
from remask.cli import main
from remask.core.errors import BadInput
from remask.data.tokenizers import encode
from remask.nets.t5 import T5Net
from remask.translate.outcome import Outcome
from tests.cli.test_translate import written
from tests.translate.nets import ALPHABET, TOKENIZER, parallel

SOURCES = ["One.", "A cat sat there", "", "x", "12 34 56", "Nein!", "So it goes", "a b c d e f g h i j k l"]
REFERENCES = ["Eins.", "Katze", "nichts", "x", "12 34 56", "No!", "So geht es", "a b c d e"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Checkpoints of some objectives, and pairs."""
    home = tmp_path_factory.mktemp("race")
    for name, rest in (("cmlm", {}), ("padir", {}), ("sundae", {"noise": "random"}), ("axe", {"length_factor": 1.5})):
        written(home / name, parallel(), {"name": name, **rest})
    torch.manual_seed(2)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": ALPHABET.size}
    ids = {"pad_token_id": ALPHABET.pad, "eos_token_id": ALPHABET.end, "decoder_start_token_id": ALPHABET.pad}
    written(home / "seq2seq", T5Net(T5ForConditionalGeneration(T5Config(**shape, **ids))), {"name": "seq2seq"})
    lines = (f"{target}\t{source}\n" for source, target in zip(SOURCES, REFERENCES))
    (home / "pairs.tsv").write_text("".join(lines))
    return home


def command(capsys, *words):
    """The records that a command prints."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# ---- quality ---------------------------------------------------------------------------------------------------------

SETTINGS = [
    ("sundae", {}, ()),
    ("cmlm", {"fields": {"steps": 2}, "lengths": {"lengths": 3}}, "--steps 2 --lengths 3"),
    ("cmlm", {"lengths": {"lengths": 2, "length_penalty": 0.5}}, "--lengths 2 --length-penalty 0.5"),
    ("padir", {"fields": {"steps": 8, "remove_stutter": True}}, "--steps 8 --remove-stutter"),
    ("axe", {"lengths": {"shifts": 3, "length_penalty": 1.0}}, "--shifts 3 --length-penalty 1"),
    ("seq2seq", {"beam": 3, "length_penalty": 0.5}, "--beam 3 --length-penalty 0.5"),
]


@pytest.mark.parametrize(("net", "how", "flags"), SETTINGS, ids=str)
def test_quality_is_what_the_command_prints(home, capsys, net, how, flags):
    flags = flags.split() if flags else []
    words = ("translate", home / net, "--data", home / "pairs.tsv", "--columns", "target,source", *flags)
    *lines, summary = command(capsys, *words, "--tokenize", "char")
    made = quality(runner(System("a", home / net, **how)), SOURCES, REFERENCES, tokenize="char")
    record = json.loads(json.dumps(made.json()))
    shared = record.keys() & summary.keys()
    assert shared >= {"bleu", "bleu_stderr", "signature", "chrf", "calls", "faults", "long", "unknown", "empty"}
    assert {name: record[name] for name in shared} == {name: summary[name] for name in shared}
    assert [one.text for one in made.found] == [line["text"] for line in lines]
    if net != "axe":
        assert (record["oracle_bleu"] is None) == (net == "seq2seq")
        return
    *_, told = command(capsys, *words, "--tokenize", "char", "--oracle-length")
    assert (record["oracle_bleu"], record["oracle_bleu_stderr"]) == (told["bleu"], told["bleu_stderr"])


def test_other_settings_have_another_quality(home):
    """The planted twin: what the comparison above compares does depend on the settings."""
    few, many = (quality(one, SOURCES, REFERENCES, tokenize="char", oracle=False) for one in pair(home))
    assert few.json() != many.json()
    assert few.oracle_bleu is None
    assert (few.calls.value, many.calls.value) == (1, 4)  # one source is empty, and one is read in two pieces


def pair(home):
    return runners([System(str(steps), home / "cmlm", fields={"steps": steps}) for steps in (1, 4)])


def test_pairs_that_do_not_match(home):
    system = runner(System("a", home / "seq2seq"))
    with pytest.raises(BadInput, match="8 sources came with 7 references"):
        quality(system, SOURCES, REFERENCES[:-1])
    with pytest.raises(BadInput, match="0 sources"):
        quality(system, [], [])
    with pytest.raises(BadInput, match="no tokenizer 'no'"):
        quality(system, SOURCES, REFERENCES, tokenize="no")


# ---- speed -----------------------------------------------------------------------------------------------------------


class Workshop:
    """A clock, and systems that let it go on: a batch costs `seconds` and more each time the system runs."""

    def __init__(self, sources):
        self.now, self.sources, self.order = 0.0, sources, []

    def clock(self):
        return self.now

    def system(self, name, seconds, text=(70,), parallel=True):
        seen = []

        def write(source, attend, stream, oracle):
            del stream, oracle
            if len(seen) % len(self.sources) == 0:
                self.order.append(name)
            seen.extend(attend.sum(1).tolist())
            runs = -(-len(seen) // len(self.sources))
            self.now += seconds * runs
            zeros = torch.zeros(len(source), dtype=torch.int64)
            return Outcome([list(text)] * len(source), zeros.double(), zeros, zeros)

        return Runner(name, name, write, TOKENIZER, ALPHABET, 100, parallel, torch.device("cpu"))


LINES = ["a" * n for n in (3, 9, 10, 11, 20, 30)]


def test_ratios_are_of_times_of_one_round():
    """The machine slows down with every round, by as much as it takes for rounds not to be comparable."""
    shop = Workshop(LINES)
    racers = [shop.system("fast", 1.0), shop.system("slow", 6.0, (70, 71), parallel=False), shop.system("idle", 12.0)]
    fast, slow, idle = speed(racers, LINES, batches=(1,), rounds=4, clock=shop.clock)
    assert fast.seconds == (12, 18, 24, 30)  # the first, untimed run cost 6
    assert [one.ratios for one in (fast, slow, idle)] == [(6.0,) * 4, (1.0,) * 4, (0.5,) * 4]
    assert {one.baseline for one in (fast, slow, idle)} == {"slow"}
    turns = ("fast slow idle", "fast slow idle", "slow idle fast", "idle fast slow", "fast slow idle")
    assert shop.order == " ".join(turns).split()
    record = slow.json()
    assert (record["sentences"], record["tokens"]) == (6, 18)  # two tokens and an end
    assert record["sentences_per_second"] == 6 / 126  # of the median round
    assert record["tokens_per_second"] == 18 / 126
    assert [fast.json()[name] for name in ("speed_over_baseline", "least", "most")] == [6.0, 6.0, 6.0]


def test_the_median_round_is_quoted():
    """Turns are a b, b a, a b: the clock is asked before and after each."""
    seconds = [1, 2, 10, 2, 3, 9]
    ticks = iter([sum(seconds[:at]) for turn in range(6) for at in (turn, turn + 1)])
    shop = Workshop(LINES)
    racers = [shop.system("a", 0.0), shop.system("b", 0.0, parallel=False)]
    a, b = speed(racers, LINES, batches=(1,), rounds=3, clock=lambda: next(ticks))
    assert (a.seconds, b.seconds) == ((1, 2, 3), (2, 10, 9))
    assert (a.ratios, b.ratios) == ((2.0, 5.0, 3.0), (1.0, 1.0, 1.0))
    assert [a.json()[name] for name in ("speed_over_baseline", "least", "most")] == [3.0, 2.0, 5.0]
    assert a.json()["speed_over_baseline"] != 9 / 2  # of the median times


@pytest.mark.parametrize("batch", [1, 4])
def test_lengths_are_timed_by_themselves(batch):
    shop = Workshop(LINES)
    (*found,) = speed([shop.system("a", 1.0)], LINES, baseline="a", batches=(batch,), edges=(20, 10), clock=shop.clock)
    assert [(one.length, one.sentences, one.tokens) for one in found] == [
        ("all", 6, 12),
        ("1-10", 3, 6),
        ("11-20", 2, 4),
        ("21-", 1, 2),
    ]
    assert {one.batch for one in found} == {batch}
    assert not [one for one in speed([shop.system("a", 1.0)], ["abc"], baseline="a", edges=(2,)) if one.length == "1-2"]


def test_races_that_cannot_be():
    shop = Workshop(LINES)
    one = shop.system("a", 1.0)
    for systems, how, said in (
        ([], {}, "without systems"),
        ([one], {"rounds": 0}, "below 1"),
        ([one], {"batches": (0,)}, "below 1"),
        ([one], {"edges": (0,)}, "below 1"),
        ([one], {}, "no baseline"),
        ([one], {"baseline": "b"}, "no baseline"),
        ([one, one], {}, "one name"),
    ):
        with pytest.raises(BadInput, match=said):
            speed(systems, LINES, **how)
    with pytest.raises(BadInput, match="without systems or sources"):
        speed([one], [])


# ---- joined inputs ---------------------------------------------------------------------------------------------------

lists = st.lists(st.text("ab c", max_size=12), max_size=30)


@settings(max_examples=40, deadline=None)
@given(lists, st.integers(0, 5), st.integers(1, 20), st.integers(0, 30))
def test_what_is_joined(sources, seed, low, more):
    """References are numbers, so they tell which sentences were taken."""
    references = [str(number) for number in range(len(sources))]
    found = joined(sources, references, TOKENIZER, seed, low, low + more)
    assert found == joined(sources, references, TOKENIZER, seed, low, low + more)
    taken = [[int(word) for word in text.split()] for text in found[1]]
    assert [" ".join(sources[number].strip() for number in group) for group in taken] == found[0]
    assert all(2 <= len(group) <= 4 for group in taken)
    assert all(low <= len(one.ids) <= low + more for one in encode(TOKENIZER, found[0]))
    used = [number for group in taken for number in group]
    assert len(used) == len({*used})
    assert all(sources[number].strip() for number in used)


@settings(max_examples=20, deadline=None)
@given(lists, st.integers(0, 5))
def test_nothing_is_left_where_every_length_will_do(sources, seed):
    references = [str(number) for number in range(len(sources))]
    used = " ".join(joined(sources, references, TOKENIZER, seed, 1, 1000)[1]).split()
    assert len(used) >= len([text for text in sources if text.strip()]) - 1


def test_seeds_join_otherwise():
    sources = [f"sentence {number}" for number in range(40)]
    first, second = (joined(sources, sources, TOKENIZER, seed)[0] for seed in (0, 1))
    assert first != second
    assert {text.count("sentence") for text in first} == {2, 3, 4}
    with pytest.raises(BadInput, match="40 sources came with 1 references"):
        joined(sources, ["a"], TOKENIZER)


# ---- the bench -------------------------------------------------------------------------------------------------------


def test_the_command_races(home, capsys):
    nets = [home / name for name in ("axe", "seq2seq")]
    words = ("--data", home / "pairs.tsv", "--columns", "target,source", "--rounds", 1, "--batches", "1,4", "--most", 4)
    rows = command(capsys, "bench", "translation", "--nets", *nets, *words, "--steps", "1,2", "--beams", "1", "2")
    names = ["axe 1", "axe 2", "seq2seq greedy", "seq2seq beam 2"]
    assert [(row["arm"], row["batch"]) for row in rows] == [(name, batch) for batch in (1, 4) for name in names]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    for row in rows:
        assert row["least"] <= row["speed"] <= row["most"]
        assert (row["oracle_bleu"] is None) == ("seq2seq" in row["arm"])
        assert row["long"] == 1  # of 23 letters, where the net reads 15
        assert "nrefs:1" in row["what"]
        assert row["arm"] != "seq2seq greedy" or row["speed"] == 1
        assert {*Race.shown} < row.keys()
    made = quality(runner(System("a", home / "axe", fields={"steps": 2})), SOURCES, REFERENCES)
    (row,) = (row for row in rows if (row["arm"], row["batch"]) == ("axe 2", 4))
    assert row["bleu"] == pytest.approx(made.scores.bleu.estimate.value, abs=1e-4)
    assert row["oracle_bleu"] == pytest.approx(made.oracle_bleu.estimate.value, abs=1e-4)
    assert row["stutter_rate"] == pytest.approx(made.faults["stutter_rate"].value, abs=1e-4)


def test_engines_race_too(home):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    texts = {"data": str(home / "pairs.tsv"), "columns": "target,source"}
    plan = {"nets": (str(home / "seq2seq"),), **texts, "rounds": 1, "batches": ("4",), "engines": ("float32,int8",)}
    rows = list(Race(**plan).rows())
    assert [row["arm"] for row in rows] == [
        "seq2seq greedy",
        "seq2seq CTranslate2 float32",
        "seq2seq CTranslate2 int8",
    ]
    assert rows[0]["bleu"] == rows[1]["bleu"]
    with pytest.raises(BadInput, match="'float8'"):
        list(Race(**{**plan, "engines": ("float8",)}).rows())


def test_joined_inputs_race(home):
    (home / "long.tsv").write_text("".join(f"drei vier\tthree {number}\n" for number in range(20)))
    plan = {"columns": "target,source", "rounds": 1, "batches": ("4",), "joined": True}
    (row,) = Race(nets=(str(home / "seq2seq"),), data=str(home / "long.tsv"), **plan).rows()
    assert row["long"] > 0
    with pytest.raises(BadInput, match="leave out --joined"):
        list(Race(nets=(str(home / "seq2seq"),), data=str(home / "short.tsv"), **plan).rows())


@pytest.fixture(autouse=True)
def short(home):
    (home / "short.tsv").write_text("x\ty\n")
    (home / "empty.tsv").write_text("")
    (home / "masked").mkdir(exist_ok=True)
    (home / "masked" / "config.json").write_text('{"model_type": "modernbert"}')


@pytest.mark.parametrize(
    ("nets", "words", "said"),
    [
        ((), (), "--nets"),
        (("seq2seq",), ("--data", ""), "--data is missing"),
        (("cmlm", "padir"), (), "goes left to right"),
        (("seq2seq", "masked"), (), "reads no source"),
        (("seq2seq", "nowhere"), (), "nowhere"),
        (("seq2seq",), ("--data", "nothing.tsv"), "nothing.tsv"),
        (("seq2seq",), ("--data", "empty.tsv"), "holds no pairs"),
        (("seq2seq",), ("--columns", "source"), "exactly one source and one target"),
        (("seq2seq",), ("--steps", "1,two"), "--steps came as 1,two"),
        (("seq2seq",), ("--batches", "0"), "--batches came as 0"),
        (("seq2seq",), ("--rounds", "0"), "--rounds came as 0"),
    ],
    ids=str,
)
def test_bad_input_is_a_sentence(home, capsys, monkeypatch, nets, words, said):
    monkeypatch.chdir(home)
    plan = ["bench", "translation", "--data", "pairs.tsv", "--columns", "target,source"]
    assert main([*plan, *(["--nets", *nets] if nets else []), *words]) == 2
    found = " ".join(capsys.readouterr().err.split())
    assert said in found
    assert "Traceback" not in found


def test_it_is_a_bench_with_flags(capsys):
    assert BENCHES.load("translation") is Race
    with pytest.raises(SystemExit):
        main(["bench", "translation", "--help"])
    text = capsys.readouterr().out
    for flag in ("--nets", "--data", "--columns", "--steps", "--batches", "--rounds", "--most", "--engines"):
        assert re.search(rf"{flag}\b", text)
