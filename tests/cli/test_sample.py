"""sample: the samplers inside samplers, how tokens are drawn, texts longer than the net, and what cannot be."""

import json
import re
import shutil
from io import StringIO

import pytest
import torch
from rich.console import Console

from remask.cli import drawing
from remask.cli.flags import fields, flag_of, parts
from remask.cli.sample import WritingLine, _trimmed, build
from remask.core.canvas import blank
from remask.core.draw import Categorical, Greedy
from remask.core.errors import BadInput
from remask.core.sampler import sample
from remask.core.stream import Stream
from remask.nets.approximate_cache import KINDS
from remask.nets.require import restrict
from remask.nets.wrap import RepetitionPenalty, Temperature, TopK, TopP
from remask.samplers import SAMPLERS
from remask.samplers.ancestral import Ancestral
from remask.samplers.blocks import Blocks
from remask.samplers.first_hitting import FirstHitting
from remask.samplers.gibbs import Gibbs
from remask.train.checkpoint import load
from tests.train.runs import LENGTH, causal, refused, trained

N, CELLS, SEED = 3, 12, 5


@pytest.fixture(scope="module")
def model():
    return load(trained())


@pytest.fixture
def texts(lines):
    """The texts of a small `sample`."""

    def call(*words, n=N, length=CELLS, seed=SEED):
        found = lines("sample", trained(), "--n", n, "--length", length, "--seed", seed, *words)
        assert all(set(one) == {"text", "calls", "seconds"} for one in found)
        return [one["text"] for one in found]

    return call


def by_hand(model, sampler, conditional=None, length=CELLS):
    """The texts that the library writes."""
    canvas = blank(N, length, model.alphabet)
    rows = sample(sampler, conditional or model.conditional(), canvas, Stream.of(SEED, N)).tokens
    return [model.tokenizer.decode(row) for row in rows]


def ids(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


# ---- samplers inside samplers ----------------------------------------------------------------------------------------

NESTED = ["--sampler", "gibbs", "--moves", "2", "--size", "3", "--inner", "ancestral", "--inner-steps", "4"]
DEEP = ["--sampler", "blocks", "--size", "5", "--inner", "gibbs", "--inner-moves", "1", "--inner-size", "2"]
DEEP += ["--inner-inner", "ancestral", "--inner-inner-steps", "3"]


def built(words):
    parser, nest = build(["x", *words])
    return drawing.build(nest, parser.parse_args(["x", *words]))


def test_flags_build_the_sampler_and_those_inside_it():
    assert built(["--sampler", "gibbs"]) == Gibbs()
    assert built(NESTED) == Gibbs(inner=Ancestral(steps=4), moves=2, size=3)
    assert built(DEEP) == Blocks(inner=Gibbs(inner=Ancestral(steps=3), moves=1, size=2), size=5)
    assert built(["--sampler", "blocks", "--no-stop", "--window", "7", "--size", "4"]) == Blocks(
        size=4, window=7, stop=False
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_help_shows_every_field_of_every_sampler_inside(remask, name):
    text = remask("sample", "--sampler", name, "--help").out
    assert all(
        f"{flag_of(field.name)} " in text or f"{flag_of(field.name)}," in text for field in fields(SAMPLERS[name])
    )
    for part in parts(SAMPLERS[name], "Sampler"):
        assert f"--{part.name} NAME" in text
        within = remask("sample", "--sampler", name, f"--{part.name}", "ancestral", "--help").out
        assert "--inner-steps INT" in within
        assert "--inner-schedule STR" in within
        assert "--inner-steps" not in text


def test_the_texts_are_the_librarys(texts, model):
    assert texts("--sampler", "first_hitting") == by_hand(model, FirstHitting())
    assert texts(*NESTED) == by_hand(model, Gibbs(inner=Ancestral(steps=4), moves=2, size=3))
    assert texts(*DEEP, "--no-stop") == by_hand(
        model, Blocks(inner=Gibbs(inner=Ancestral(steps=3), moves=1, size=2), size=5, stop=False)
    )


def test_calls_are_those_of_the_conditional(lines):
    """A call a cell, and of every move as many as it refills."""
    words = ["sample", trained(), "--n", 2, "--length", CELLS, "--sampler"]
    assert [one["calls"] for one in lines(*words, "gibbs", "--moves", 3, "--size", 4)] == [CELLS + 3 * 4] * 2
    assert [one["calls"] for one in lines(*words, "blocks", "--no-stop", "--size", 5)] == [CELLS] * 2


# Float32 kernels round differently for batches of different shapes, so a text may differ where a uniform lies within
# rounding of a boundary; with these seeds none does, on any of the machines seen.
@pytest.mark.parametrize(
    "words",
    [
        NESTED,
        DEEP,
        ["--sampler", "blocks", "--size", "8", "--length", str(LENGTH + 2)],
        ["--temperature", "0.7", "--top-k", "40", "--top-p", "0.8", "--repetition-penalty", "1.3", "--ban", "token"],
        ["--sampler", "ancestral", "--steps", "4", "--require", "while", " token"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_the_batch_changes_no_text(texts, words):
    whole = texts(*words, n=4)
    assert texts(*words, "--batch", 1, n=4) == texts(*words, "--batch", 3, n=4) == whole
    assert texts(*words, n=2) == whole[:2]  # a row's text does not depend on how many come after it


# ---- how tokens are drawn --------------------------------------------------------------------------------------------


def test_temperature_zero_takes_the_most_probable_token(texts, model):
    greedy = by_hand(model, FirstHitting(draw=Greedy()))
    assert texts("--temperature", 0) == texts("--top-k", 1) == greedy


def test_wrappers_and_their_order(texts, model):
    """Bans next to the model, then the penalty, the temperature, and the cuts around it."""
    asked = ["--temperature", 0.5, "--top-k", 30, "--top-p", 0.6, "--repetition-penalty", 1.5, "--ban", "token"]
    banned = tuple(number for text in ("token", " token") for number in ids(model, text))
    assert len(banned) == 2
    penalised = RepetitionPenalty(restrict(model.conditional(), banned), 1.5)
    law = TopP(TopK(Temperature(penalised, 0.5), 30), 0.6)
    assert texts(*asked) == by_hand(model, FirstHitting(), law)
    swapped = TopK(TopP(Temperature(penalised, 0.5), 0.6), 30)  # the planted twins: another order is another law
    colder = Temperature(TopP(TopK(penalised, 30), 0.6), 0.5)
    tokens = torch.full((1, CELLS), model.alphabet.mask)
    assert not torch.equal(law(tokens).isinf(), colder(tokens).isinf())
    assert torch.equal(swapped(tokens).isinf(), TopP(Temperature(penalised, 0.5), 0.6)(tokens).isinf())


def test_the_draw_goes_to_the_innermost_sampler():
    _, nest = build(["x", *DEEP])
    values = build(["x", *DEEP])[0].parse_args(["x", *DEEP, "--temperature", "0"])
    sampler = drawing.drawing(drawing.build(nest, values), lambda usual: drawing.draw_of(values, usual))
    assert sampler.inner.inner.draw == Greedy()
    assert [type(one) for one in drawing.chain(sampler)] == [Blocks, Gibbs, Ancestral]
    values.temperature = 0.8
    assert drawing.draw_of(values, Greedy()) == Categorical()
    values.temperature = None
    assert drawing.draw_of(values, Greedy()) == Greedy()


def test_mask_predict_stays_greedy_unless_a_temperature_is_given(texts, remask):
    words = ["--sampler", "mask_predict", "--steps", 3]
    assert texts(*words) == texts(*words, seed=SEED + 1)
    assert texts(*words, "--temperature", 1) != texts(*words, "--temperature", 1, seed=SEED + 1)
    done = remask("sample", trained(), "--n", 1, "--length", 4, *words, "--top-p", 0.5)
    assert done.status == 0
    assert "--top-k and --top-p change nothing" in done.err


def test_a_ban_bans_both_forms(texts, model):
    hot = ["--temperature", 30]  # as good as uniform
    free = " ".join(texts(*hot, n=8, length=LENGTH))
    assert "token" in free
    assert "while" in free
    never = {number for text in ("token", " token", " while") for number in ids(model, text)}
    assert len(never) == 3
    banned = texts(*hot, "--ban", "token", " while", n=8, length=LENGTH)
    assert not any(" token" in text or " while" in text for text in banned)  # with this seed no other tokens spell them
    conditional = drawing.conditional_of(model, values_of(["--ban", "token", " while"]))
    log_prob = conditional(torch.full((1, 3), model.alphabet.mask))
    assert (log_prob[..., sorted(never)] == -torch.inf).all()
    assert log_prob.isinf().sum() == 3 * (3 + 1)  # and the mask


def values_of(words):
    return build(["x", *words])[0].parse_args(["x", *words])


def test_bans_and_required_tokens_that_came_twice_add_up():
    twice = values_of(["--ban", "a", "--require", "if", "--ban", "b", "c", "--require", "while"])
    assert (twice.ban, twice.require) == (["a", "b", "c"], ["if", "while"])
    words, _ = build(["x"])
    assert [words.parse_args(["x", "--ban", text]).ban for text in "ab"] == [["a"], ["b"]]  # no list is shared
    assert words.parse_args(["x"]).ban == []


def test_required_tokens_come_up_in_every_text(texts):
    for sampler in ("first_hitting", "ancestral", "gibbs", "mask_predict"):
        found = texts("--require", "while", " token", "if", "--sampler", sampler, n=4, length=8)
        assert all(word in text for text in found for word in (" while", " token", " if")), (sampler, found)


# ---- longer than the net ---------------------------------------------------------------------------------------------


def test_blocks_write_longer_texts_than_the_net_reads(texts, model, lines):
    length = 2 * LENGTH + 5
    words = ["--sampler", "blocks", "--size", 8, "--no-stop"]
    assert texts(*words, length=length) == by_hand(model, Blocks(size=8, window=LENGTH, stop=False), length=length)
    (one,) = lines("sample", trained(), "--n", 1, "--length", length, *words, "--prompt", "while token")
    assert one["text"].startswith("while token")
    assert one["calls"] == length - len(ids(model, "while token"))
    blocks = ["--inner", "blocks", "--inner-size", 8, "--no-inner-stop"]
    inside = texts("--sampler", "gibbs", "--moves", 1, *blocks, n=1, length=LENGTH + 2)
    assert "[MASK]" not in inside[0]


def test_a_text_that_ended_has_no_padding(lines, model):
    words = ["--sampler", "blocks", "--size", 8, "--temperature", 50, "--ban", "[PAD]", "--length", 4 * LENGTH]
    found = lines("sample", trained(), "--n", 6, *words)
    ended = [one for one in found if one["text"].endswith("[END]")]
    assert ended
    assert all("[PAD]" not in one["text"] for one in found)
    assert all(one["calls"] < 4 * LENGTH for one in ended if len(ids(model, one["text"])) < 3 * LENGTH)
    end, pad = model.alphabet.end, model.alphabet.pad
    assert _trimmed([7, 8, end, pad, pad], model) == [7, 8, end]
    assert _trimmed([7, end, 8, pad], model) == [7, end, 8]
    alone = model._replace(alphabet=model.alphabet._replace(pad=None))
    assert _trimmed([7, 8, end, end, end], alone) == [7, 8, end]
    assert _trimmed([7, 8], alone) == [7, 8]


# ---- what cannot be --------------------------------------------------------------------------------------------------

BAD = [
    (["--temperature", "-1"], ["--temperature came as -1.0", "type 0"]),
    (["--temperature", "nan"], ["--temperature came as nan"]),
    (["--temperature", "inf"], ["--temperature came as inf"]),
    (["--top-k", "0"], ["--top-k came as 0"]),
    (["--top-p", "0"], ["--top-p came as 0.0"]),
    (["--top-p", "nan"], ["--top-p came as nan"]),
    (["--repetition-penalty", "0.5"], ["--repetition-penalty came as 0.5"]),
    (["--n", str(10**12)], ["--n came as"]),
    (["--batch", str(10**12)], ["--batch came as"]),
    (["--ban", "statement"], ["--ban came with 'statement', which is 7 tokens here ('st' 'a'", "single tokens"]),
    (["--require", "statement"], ["--require came with 'statement'", "7 tokens"]),
    (["--require", ""], ["--require came empty: type a token, or leave the flag out"]),
    (["--ban", "token", ""], ["--ban came empty"]),
    (["--require", "[END]"], ["--require came with '[END]', which is no text"]),
    (["--require", "while", "--ban", "while"], ["'while' came with --require and with --ban"]),
    (["--require", "while", "--ban", " while"], ["'while' came with --require and with --ban"]),
    (["--require", "while", "token", "if", "--length", "2"], ["required tokens missing from a row: 3", "blanks are 2"]),
    (["--sampler", "ancestral", "--steps", "0"], ["--steps 1 or more"]),
    (["--sampler", "ancestral", "--steps", "-3"], ["--steps 1 or more"]),
    (["--sampler", "gibbs", "--moves", "-1"], ["-1 moves"]),
    (["--sampler", "gibbs", "--moves", str(10**12)], ["moves: type"]),
    (["--sampler", "gibbs", "--inner", "gibs"], ["no sampler named 'gibs'", "did you mean 'gibbs'?"]),
    (["--sampler", "gibbs", "--inner", "ancestral", "--inner-steps", "0"], ["0 steps"]),
    (["--sampler", "gibbs", "--inner", "gibbs"], ["--inner came as gibbs, which would lie in itself"]),
    (["--sampler", "blocks", "--inner", "gibbs", "--inner-inner", "blocks"], ["--inner-inner came as blocks"]),
    (["--sampler", "gibbs", "--sampler", "blocks"], ["--sampler came as gibbs and as blocks: type it once"]),
    (["--length", str(LENGTH + 1)], [f"reads 1 to {LENGTH} tokens", "--sampler blocks"]),
    (["--length", str(LENGTH + 1), "--sampler", "gibbs"], [f"reads 1 to {LENGTH} tokens"]),
    (["--length", str(10**12), "--sampler", "blocks"], ["1000000 at most"]),
    (
        ["--steps", "4"],
        ["first_hitting has no --steps, which belongs to ancestral, ", "mask_predict", "--sampler NAME"],
    ),
    (["--no-stop", "--sampler", "gibbs"], ["gibbs has no --no-stop, which belongs to blocks: type --sampler NAME"]),
    (["--inner=gibbs"], ["first_hitting has no --inner, which belongs to ", "blocks"]),
    (["--stepz", "4"], ["unrecognized arguments: --stepz 4"]),
    (["--length", "0", "--sampler", "blocks"], ["--length came as 0"]),
    (["--length", "99", "--sampler", "blocks", "--size", "40"], ["40 cells", f"--size {LENGTH} or less"]),
    (["--length", "99", "--sampler", "blocks", "--window", "40"], ["a window of 40", f"--window {LENGTH} or less"]),
    (
        ["--length", "99", "--sampler", "blocks", "--require", "while"],
        ["--require", "99 tokens", f"window of {LENGTH}"],
    ),
    (["--sampler", "blocks", "--size", "0"], ["--size 1 "]),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[" ".join(words)[:50] for words, _ in BAD])
def test_a_sampling_that_cannot_be(remask, words, said):
    refused(remask("sample", trained(), "--n", 1, *words), *said)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_takes_an_absurd_budget(sampler):
    """Steps and moves: 0, negative, far too many. Each message names what came and the flag."""
    for field in fields(SAMPLERS[sampler]):
        for came in {"steps": (0, -1, 10**9), "moves": (-1, 10**9)}.get(field.name, ()):
            with pytest.raises(BadInput, match=f"{came} {field.name}.*type --{field.name}"):
                SAMPLERS.load(sampler)(**{field.name: came})


def test_a_causal_net_and_a_full_canvas(remask, lines, model):
    refused(remask("sample", causal(), "--sampler", "gibbs"), "is an autoregressive net")
    cells = len(ids(model, "while token"))
    for sampler in ("first_hitting", "mask_predict", "gibbs", "parallel_gibbs", "blocks"):
        words = ["sample", trained(), "--n", 2, "--length", cells, "--prompt", "while token", "--sampler", sampler]
        assert [(one["text"], one["calls"]) for one in lines(*words)] == [("while token", 0)] * 2


def test_blocks_want_an_end_token(remask, tmp_path, lines):
    shutil.copytree(trained(), tmp_path / "endless", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    config = tmp_path / "endless" / "tokenizer_config.json"
    facts = {k: v for k, v in json.loads(config.read_text()).items() if v != "[END]"}
    config.write_text(json.dumps(facts))
    words = ["sample", tmp_path / "endless", "--n", 1, "--length", 6, "--sampler", "blocks"]
    refused(remask(*words), "no end-of-text token: type --no-stop")
    assert lines(*words, "--no-stop")[0]["calls"] == 6


# ---- for a person ----------------------------------------------------------------------------------------------------


def test_the_progress_line_has_a_rate_and_the_time_left():
    terminal = StringIO()
    shown = Console(file=terminal, force_terminal=True, width=100)
    with WritingLine(10, 100_000, shown=shown) as line:
        line.began -= 1000  # seconds ago
        line(2.5)
        line.pause()
        assert not line.progress.live.is_started
        line(7.5)
    said = terminal.getvalue()
    assert re.search(r"2/10 texts  2[45]\d tokens/s  5[0-2]:\d\d left", said)
    assert "7/10 texts" in said


def test_progress_counts_every_text_and_never_goes_back(model):
    told = []
    values = values_of(["--n", "5", "--batch", "2"])
    rows = drawing.write(FirstHitting(), model.conditional(), blank(1, 4, model.alphabet), values, told.append)
    assert len(list(rows)) == 5
    assert told == sorted(told)
    assert told[-1] == 5.0
    assert told[:4] == [0.5, 1.0, 1.5, 2.0]


def test_nothing_but_texts_on_standard_output(remask):
    done = remask("sample", trained(), "--n", 2, "--length", 4)
    assert done.status == 0
    assert "(4 calls, " in done.err
    assert "tokens/s" not in done.err  # no terminal, no bar
    assert "calls" not in done.out


def test_the_command_names_every_approximate_cache():
    """Named apart from the table, so that --help needs no torch."""
    assert tuple(KINDS) == drawing.APPROXIMATE
