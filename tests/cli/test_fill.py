"""fill: long blanks, patterns, the numbers beside them, and what cannot be."""

import math
import re
import sys

import pytest
import torch

from remask.cli import drawing, fill
from remask.core.canvas import infill
from remask.core.draw import Greedy
from remask.core.sampler import run
from remask.core.stream import Stream
from remask.samplers.gibbs import Gibbs
from remask.train.checkpoint import load
from tests.train.runs import LENGTH, causal, refused, trained


@pytest.fixture(scope="module")
def model():
    return load(trained())


@pytest.fixture
def filled(lines):
    """The records of a fill."""

    def call(*words):
        found = lines("fill", trained(), *words)
        assert all(set(one) == {"text", "gaps", "log_prob", "calls", "candidates"} for one in found)
        return found

    return call


def values_of(*words):
    return fill.build([])[0].parse_args(["x", *map(str, words)])


# ---- blanks ----------------------------------------------------------------------------------------------------------


def easiest_first(model, text):
    """Most probable tokens, the easiest blank first, written out by hand: the ids and the sum of log p."""
    ids, _ = fill.question(model, text)
    tokens, total = torch.tensor([ids]), 0.0
    while (tokens == model.alphabet.mask).any():
        log_prob = model.conditional()(tokens)[0]
        blanks = torch.nonzero(tokens[0] == model.alphabet.mask)[:, 0]
        best = log_prob[blanks].amax(1)
        cell = int(blanks[best.argmax()])
        tokens[0, cell] = log_prob[cell].argmax()
        total += float(best.max())
    return tokens[0].tolist(), total


@pytest.mark.parametrize("text", ["if [MASK] else [MASK] value", "On [MASK:10] we met [MASK] .", "[MASK:3]"])
def test_the_easiest_blank_first_each_its_most_probable_token(filled, model, text):
    (found,) = filled(text)
    ids, total = easiest_first(model, text)
    assert found["text"] == model.tokenizer.decode(ids)
    assert found["log_prob"] == pytest.approx(total, abs=2e-4)
    assert found["calls"] == sum(int(k or 1) for k in re.findall(r"\[MASK:?(\d*)\]", text))
    assert filled(text, "--seed", 9) == [found]


def test_a_blank_of_several_tokens_is_one_gap(filled, model):
    (found,) = filled("On [MASK:10] we met [MASK] .")
    long, short = found["gaps"]
    assert re.fullmatch(f"On ?{re.escape(long)} we met ?{re.escape(short)} [.]", found["text"])
    assert found["calls"] == 11
    assert [len(best) for best in found["candidates"]] == [0, 5]
    (one,) = filled("On [MASK:1] we met")
    (same,) = filled("On [MASK] we met")
    assert one == same


def test_neighbours_stay_apart(model):
    mask = model.alphabet.mask
    ids, gaps = fill.question(model, "if [MASK:2][MASK] [MASK:3]")
    end = len(ids)
    assert [(gap.first, gap.stop) for gap in gaps] == [(end - 6, end - 4), (end - 4, end - 3), (end - 3, end)]
    assert ids[-6:] == [mask] * 6
    assert [gap.before for gap in gaps] == ["if ", "if [MASK][MASK]", "if [MASK][MASK][MASK] "]


def test_random_fillings(filled):
    words = ["if [MASK:3] else [MASK]", "--n", 6]
    found = filled(*words)
    assert len({tuple(one["gaps"]) for one in found}) > 1
    assert all(one["calls"] == 4 and one["log_prob"] < 0 for one in found)
    assert filled(*words, "--batch", 1) == filled(*words, "--batch", 4) == found
    assert filled(*words, "--seed", 1) != found


def test_log_prob_is_that_of_the_tokens_as_they_were_written_last(filled, model):
    """One blank: log p itself. A chain that writes cells again: the last time counts."""
    (found,) = filled("if [MASK] else")
    ids, ((first, _, _),) = fill.question(model, "if [MASK] else")
    log_prob = model.conditional()(torch.tensor([ids]))[0, first]
    assert found["log_prob"] == pytest.approx(float(log_prob.max()), abs=1e-4)
    words = ["if [MASK:4] else", "--n", 2, "--sampler", "gibbs", "--moves", 5, "--size", 2]
    ids, _ = fill.question(model, words[0])
    canvas = infill(torch.tensor([ids] * 2), model.alphabet)
    last = torch.zeros(canvas.tokens.shape, dtype=torch.float64)
    for _, info in run(Gibbs(moves=5, size=2), model.conditional(), canvas, Stream.of(0, 2)):
        last = torch.where(info.changed, info.log_prob, last)
    found = filled(*words)
    assert [one["log_prob"] for one in found] == pytest.approx(last.sum(1).tolist(), abs=1e-4)
    assert [one["calls"] for one in found] == [4 + 5 * 2] * 2


def test_a_named_sampler_and_draws(filled):
    text = "if [MASK:6] else"
    assert filled(text, "--sampler", "ancestral", "--steps", 1)[0]["calls"] == 1
    greedy = filled(text, "--sampler", "first_hitting")
    assert greedy == filled(text, "--sampler", "first_hitting", "--temperature", 0)
    assert filled(text, "--temperature", 5)[0]["gaps"] != filled(text, "--temperature", 5, "--seed", 1)[0]["gaps"]
    banned = filled(text, "--ban", greedy[0]["candidates"] and "e", " e")
    assert banned[0]["log_prob"] < 0
    (required,) = filled(text, "--require", "while", "if")
    assert " while" in f" {required['gaps'][0]}"  # a gap is told without the space that its blank swallowed
    assert " if" in f" {required['gaps'][0]}"


def test_a_text_without_a_blank_comes_back_as_it_is(remask, filled, model):
    for text in ("no  blank here", "", "Ünïcode [mask]"):
        (found,) = filled(text)
        assert found == {"text": text, "gaps": [], "log_prob": 0.0, "calls": 0, "candidates": []}
        done = remask("fill", trained(), text)
        assert (done.status, done.out) == (0, f"{text}\n")
        assert "there is no blank in the text" in " ".join(done.err.split())
        assert "write [MASK]" in " ".join(done.err.split())
    assert len(filled("none", "--n", 3)) == 3


# ---- patterns --------------------------------------------------------------------------------------------------------


@pytest.fixture
def outlines():
    return pytest.importorskip("outlines_core", reason="patterns need outlines_core: pip install 'remask[pattern]'")


DATE = "[0-9]{1,2}(st|nd|th) of (May|June)"


def test_fifty_random_fillings_all_match(filled, outlines):
    found = filled(
        "On [MASK:12] we met [MASK:5]. [MASK:2]",
        "--pattern",
        DATE,
        "--pattern",
        "[a-z]+( [a-z]+)*",
        "--pattern",
        "",
        "--n",
        50,
    )
    assert len(found) == 50
    for one in found:
        date, words, free = one["gaps"]
        assert re.fullmatch(DATE, date)
        assert re.fullmatch("[a-z]+( [a-z]+)*", words)
        assert one["text"] in (f"On {date} we met {words}.{space}{free}" for space in ("", " "))
        assert one["calls"] == 19
    assert len({one["gaps"][0] for one in found}) > 8
    assert len({one["gaps"][1] for one in found}) > 40


def test_a_pattern_of_one_token_takes_the_best_that_matches(filled, model, outlines):
    """By hand: the argmax among the digits; and drawn, only digits come up."""
    ids, ((first, _, _),) = fill.question(model, "if[MASK] else")
    log_prob = model.conditional()(torch.tensor([ids]))[0, first]
    digits = [model.tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)]
    best = max(digits, key=lambda number: float(log_prob[number]))
    (found,) = filled("if[MASK] else", "--pattern", "[0-9]")
    assert found["gaps"] == [model.tokenizer.decode([best])]
    assert found["log_prob"] == pytest.approx(float(log_prob[best]), abs=1e-4)
    drawn = filled("if[MASK] else", "--pattern", "[0-9]", "--n", 40)
    assert len({one["gaps"][0] for one in drawn}) > 4
    assert all(re.fullmatch("[0-9]", one["gaps"][0]) for one in drawn)


def test_the_most_probable_text_of_a_pattern_is_jointly_so(filled, model, outlines):
    """Two blanks, every string tried: what the first call's product law likes best stays possible and is written."""
    text, pattern = "if[MASK:2] else", "(ab|ba|cc|i[st])"
    ids, (gap,) = fill.question(model, text)
    log_prob = model.conditional()(torch.tensor([ids]))[0]

    def weight(word):
        return sum(
            float(log_prob[cell, model.tokenizer.convert_tokens_to_ids(letter)])
            for cell, letter in zip(range(gap.first, gap.stop), word)
        )

    (found,) = filled(text, "--pattern", pattern)
    assert found["gaps"][0] in ("ab", "ba", "cc", "is", "it")
    joint = filled(text, "--pattern", pattern, "--sampler", "ancestral", "--steps", 1)[0]
    assert joint["gaps"] == [max(("ab", "ba", "cc", "is", "it"), key=weight)]
    assert joint["log_prob"] == pytest.approx(weight(joint["gaps"][0]), abs=1e-3)


@pytest.mark.parametrize(
    "sampler",
    [
        ["gibbs", "--moves", "2", "--size", "3"],
        ["blocks", "--size", "4"],
        ["ancestral", "--steps", "3"],
        ["parallel_gibbs", "--moves", "1"],
        ["mask_predict", "--steps", "4"],
        ["remdm", "--steps", "12", "--eta", "0.3"],
        ["confidence", "--steps", "3"],
        ["p2", "--steps", "4"],
        ["sundae", "--steps", "4"],
        ["entropy_bound", "--gamma", "2"],
    ],
    ids=lambda words: words[0],
)
def test_patterns_hold_whatever_the_sampler(filled, sampler, outlines):
    found = filled("On [MASK:9] we met", "--pattern", "[0-9]{2}/[0-9]{2}/[0-9]{2}", "--n", 4, "--sampler", *sampler)
    assert all(re.fullmatch("[0-9]{2}/[0-9]{2}/[0-9]{2}", one["gaps"][0]) for one in found)
    assert all(one["text"] == f"On {one['gaps'][0]} we met" for one in found)


def test_bans_reach_into_patterns(filled, outlines):
    found = filled("x[MASK:6]", "--pattern", "[ab]+", "--ban", "a", "--n", 3)
    assert [one["gaps"] for one in found] == [["bbbbbb"]] * 3
    wanted = filled("x [MASK:3]", "--pattern", "[a-z ]+", "--require", "while", "--n", 3)
    assert all("while" in one["gaps"][0] for one in wanted)


def test_the_proposed_lengths_work(remask, filled, outlines):
    """Both neighbours are named, and what is to be typed does what was wanted."""
    words = ["--pattern", "ab|abcdefg", "--ban", "de"]
    done = remask("fill", trained(), "x[MASK:4]y", *words)
    refused(
        done, "the pattern 'ab|abcdefg' cannot be written with 4 tokens; the nearest lengths are 2 and 7: type [MASK:2]"
    )
    assert filled("x[MASK:2]y", *words)[0]["gaps"] == ["ab"]
    assert filled("x[MASK:7]y", *words)[0]["gaps"] == ["abcdefg"]
    refused(remask("fill", trained(), "x[MASK:3]y", "--pattern", "ab?"), "the nearest length is 2: type [MASK:2]")
    refused(remask("fill", trained(), "x[MASK]y", "--pattern", "[0-9]{3}"), "with 1 token; the nearest length is 3")
    refused(remask("fill", trained(), "x[MASK:2]y", "--pattern", "[0-9]{400}"), "nor with any other number up to")


def test_a_filling_that_does_not_match_would_be_called_a_bug(model, outlines):
    """The planted twin: the second look is at the bytes, and it can fail."""
    values = values_of("x[MASK:2]", "--pattern", "[0-9]b")
    ids, gaps = fill.question(model, "x[MASK:2]")
    (wanted,) = fill._wanted(model, values, ids, gaps)
    number = model.tokenizer.convert_tokens_to_ids
    assert fill._matched(wanted, [*ids[:1], number("4"), number("b")]) == "4b"
    for bad in (("b", "4"), ("4", "4"), ("4", "bj")):
        with pytest.raises(AssertionError, match="a bug of remask"):
            fill._matched(wanted, [*ids[:1], *map(number, bad)])


def test_without_the_library_of_patterns(remask, monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    refused(remask("fill", trained(), "[MASK]", "--pattern", "a"), "outlines_core", "pip install 'remask[pattern]'")


# ---- what cannot be --------------------------------------------------------------------------------------------------

BAD = [
    (["[MASK:0]"], ["[MASK:0]", "1 or more"]),
    (["[MASK:-2]"], ["[MASK:-2]", "1 or more"]),
    (["[MASK:]"], ["[MASK:]", "as in [MASK:10]"]),
    (["[MASK:ten]"], ["[MASK:ten]"]),
    ([f"[MASK:{LENGTH + 1}]"], [f"[MASK:{LENGTH + 1}]", f"at most {LENGTH} tokens"]),
    (["[MASK:" + "9" * 5000 + "]"], [f"at most {LENGTH} tokens"]),
    ([f"[MASK:{LENGTH}] x"], [f"{LENGTH + 2} tokens", f"reads at most {LENGTH}"]),
    (["[MASK]", "--n", "0"], ["--n came as 0"]),
    (["[MASK]", "--batch", "0"], ["--batch came as 0"]),
    (["[MASK]", "--temperature", "-0.1"], ["--temperature came as -0.1"]),
    (["[MASK]", "--sampler", "ancestral", "--steps", "0"], ["--steps 1 or more"]),
    (["[MASK]", "--sampler", "gibs"], ["no sampler named 'gibs'"]),
    (["[MASK]", "--require", "while", "if"], ["required tokens missing from a row: 2", "blanks are 1"]),
    (["[MASK]", "--require", "while", "--ban", "while"], ["'while' came with --require and with --ban"]),
    (["[MASK]", "--ban", "statement"], ["7 tokens"]),
]
PATTERNS = [
    (["[MASK] [MASK]", "--pattern", "a"], ["2 blanks in the text, but --pattern came 1 times"]),
    (["[MASK]", "--pattern", "a", "--pattern", "b"], ["1 blanks in the text, but --pattern came 2 times"]),
    (["no blank", "--pattern", "a"], ["0 blanks in the text, but --pattern came 1 times"]),
    (["[MASK]", "--pattern", "(ab"], ["'(ab' cannot be used as a pattern"]),
    (["[MASK]", "--pattern", r"\bab"], ["cannot be used as a pattern"]),
    (["[MASK:2]", "--pattern", "[0-9]", "--ban", *"0123456789"], ["cannot spell any text that matches"]),
    (["x[MASK:2]", "--pattern", "[0-9]+", "--require", "while"], ["the required 'while' does not fit the patterns"]),
    (["x[MASK:9]", "--pattern", "a+", "--sampler", "blocks", "--size", "2", "--window", "4"], ["--pattern", "window"]),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[" ".join(words)[:50] for words, _ in BAD])
def test_a_question_that_cannot_be(remask, words, said):
    refused(remask("fill", trained(), *words), *said)


@pytest.mark.parametrize(("words", "said"), PATTERNS, ids=[" ".join(words)[:50] for words, _ in PATTERNS])
def test_a_pattern_that_cannot_be(remask, words, said, outlines):
    refused(remask("fill", trained(), *words), *said)


def test_a_causal_net_fills_nothing(remask):
    refused(remask("fill", causal(), "[MASK]", "--n", 1), "is an autoregressive net")
    refused(remask("fill", causal(), "no blank"), "is an autoregressive net")


# ---- for a person ----------------------------------------------------------------------------------------------------


def test_a_few_blanks_are_explained_and_a_long_one_shows_its_text(remask):
    done = remask("fill", trained(), "On [MASK:3] we met [MASK] .")
    assert done.status == 0
    assert done.out.startswith("On")
    assert len(done.out.splitlines()) == 1
    assert "%" in done.err
    assert "nats, 4 calls" in done.err
    many = remask("fill", trained(), " ".join(["[MASK]"] * (fill.FEW + 3)))
    assert "and 3 more blanks" in many.err
    drawn = remask("fill", trained(), "On [MASK:3] we met", "--n", 2)
    assert len(drawn.out.splitlines()) >= 2
    assert "nats" not in drawn.err


def test_the_usual_draw_is_greedy_only_without_n():
    assert drawing.draw_of(values_of("[MASK]"), Greedy()) == Greedy()
    assert math.isclose(values_of("[MASK]", "--temperature", "0.5").temperature, 0.5)
