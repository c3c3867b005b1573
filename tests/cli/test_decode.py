"""decode: its texts are the library's, its flags the dataclasses', and what cannot be is a sentence."""

import json
import math
import shutil

import pytest
import torch
import transformers

from remask.cli.decode import STREAMS
from remask.cli.flags import fields, flag_of
from remask.core.decoder import Budget
from remask.core.stream import Stream
from remask.data.tokenizers import byte_tokenizer
from remask.decoders import DECODERS
from remask.decoders.beam import Beam
from remask.decoders.exact_mode import ExactMode
from remask.decoders.sampling import Sampling
from remask.train.frozen import load_causal
from tests.nets.tiny import shake
from tests.train.runs import refused

END, PAD, WINDOW = 2, 0, 48
KEYS = {"text", "log_prob", "certified", "gap", "calls", "seconds", "tokens", "ended"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A random GPT-2 of bytes, not too flat."""
    return gpt2(tmp_path_factory.mktemp("decode") / "gpt2", scale=1.5)


def gpt2(path, scale):
    """The larger the scale, the surer of its next token."""
    shape = {"vocab_size": 260, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": WINDOW}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=END, eos_token_id=END))
    shake(model, scale=scale).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    path = tmp_path_factory.mktemp("decode") / "t5"
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": 260}
    torch.manual_seed(1)
    config = transformers.T5Config(**shape, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=END)
    shake(transformers.T5ForConditionalGeneration(config), scale=0.5).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    (path / "remask.json").write_text(json.dumps({"recipe": {"text": {"length": 20}}}))
    return path


def by_hand(path, decoder, prompts, tokens, nodes=None, seed=0):
    """(text, log p) of each prompt as the library decodes them, all at once."""
    opened = load_causal(path)
    ids = opened.prompts(prompts)
    decoded = decoder(opened.model, ids, Stream.of(seed, len(ids)), Budget(tokens, nodes))
    return list(zip(map(opened.text, decoded.texts(opened.model.end)), decoded.log_prob.tolist()))


def told(lines):
    assert all(set(one) == KEYS for one in lines)
    return [(one["text"], pytest.approx(one["log_prob"])) for one in lines]


@pytest.mark.parametrize(
    ("words", "decoder", "tokens"),
    [
        (["--tokens", 6], Beam(), 6),
        (["--decoder", "beam", "--beam", 1, "--tokens", 5], Beam(beam=1), 5),
        (["--beam", 3, "--length", 4], Beam(beam=3, length=4), 5),
        (["--decoder", "exact_mode", "--length", 1, "--beam", 2], ExactMode(length=1, beam=2), 2),
        (["--decoder", "sampling", "--n", 3, "--tokens", 7, "--seed", 4], Sampling(n=3), 7),
    ],
    ids=lambda words: " ".join(map(str, words)) if isinstance(words, list) else "",
)
def test_the_texts_are_the_librarys(lines, home, tmp_path, words, decoder, tokens):
    prompts = ["to be", "", "or not"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    seed = words[words.index("--seed") + 1] if "--seed" in words else 0
    expected = by_hand(home, decoder, prompts, tokens, seed=seed)
    assert told(lines("decode", home, "--data", tmp_path / "prompts.txt", *words)) == expected
    (one,) = lines("decode", home, "--prompt", "to be", *words)
    assert told([one]) == expected[:1]


def test_an_exact_mode_is_certified_or_has_a_gap(line, home):
    words = ["decode", home, "--prompt", "a", "--decoder", "exact_mode", "--length", 1]
    whole = line(*words)
    assert (whole["certified"], whole["gap"], whole["tokens"], whole["ended"]) == (True, 0.0, 1, True)
    short = line(*words, "--budget", 5, "--beam", 0)
    assert short["calls"] == 5
    assert not short["certified"]
    assert whole["log_prob"] <= short["log_prob"] + short["gap"] + 1e-9
    assert line("decode", home, "--prompt", "a", "--length", 3, "--length-penalty", 1)["gap"] is None


def test_a_source_is_translated(lines, translator):
    assert told(lines("decode", translator, "--prompt", "red cat", "--tokens", 8)) == by_hand(
        translator, Beam(), ["red cat"], 8
    )


def test_an_attribute_is_asked_for(line, home):
    plain = line("decode", home, "--prompt", "a", "--tokens", 6)
    words = ["decode", home, "--prompt", "a", "--tokens", 6, "--decoder", "conditional_beam"]
    assert line(*words, "--length", 2)["tokens"] == 2
    assert line(*words, "--attribute", "length=2")["text"] == line(*words, "--length", 2)["text"]
    last = next(letter for letter in reversed(plain["text"]) if letter.isascii())
    without = line(*words, "--attribute", f"avoids={last}", "not_empty")
    assert last not in without["text"]
    assert without["tokens"]


def test_a_classifier_is_fitted_and_used(remask, line, tmp_path):
    out, home = tmp_path / "length", gpt2(tmp_path / "flat", scale=0.1)
    words = ["--samples", 400, "--tokens", 30, "--epochs", 1, "--inner", 8, "--json"]
    done = remask("train", "attribute", "--model", home, "--attribute", "length", "--out", out, *words)
    assert done.status == 0, done.err
    assert {"drawn", "satisfied", "brier", "reliability"} <= set(done.json)
    assert "svg" in (out / "report.html").read_text()
    for asked in (["--length", 2], ["--attribute", "length=2"]):
        found = line("decode", home, "--decoder", "conditional_beam", "--classifier", out, *asked)
        assert (found["tokens"], found["ended"]) == (2, True)
    shorter = remask("decode", home, "--decoder", "conditional_beam", "--classifier", out, "--tokens", 3)
    assert shorter.status == 0
    assert "texts of up to 30 tokens" in shorter.err
    again = ["train", "attribute", "--model", home, "--attribute", "length", "--out", out, *words]
    refused(remask(*again), "holds a classifier")


def test_nothing_found_is_said(remask, home):
    words = ["--decoder", "conditional_beam", "--attribute", "contains=zebra", "--tokens", 8, "--beam", 1, "--top-k", 2]
    done = remask("decode", home, *words)
    assert done.status == 0
    assert "no text with the attribute was found" in done.err
    assert "inf" not in done.err


def test_hidden_states_learn_from_prompts_that_are_longer_than_the_window(line, home):
    found = line("decode", home, "--prompt", "to be or not " * 10, "--decoder", "hidden_state", "--tokens", 4)
    assert found["tokens"] <= 4
    assert math.isfinite(found["log_prob"])


def test_a_default_budget_is_what_the_model_has_room_for(line, home):
    for prompt in ("", "a" * 20, "a" * (WINDOW - 2)):
        found = line("decode", home, "--prompt", prompt, "--beam", 1)
        assert found["tokens"] + found["ended"] <= WINDOW - 1 - len(prompt)


def test_a_search_does_not_go_on_for_days(line, home, monkeypatch):
    words = ["decode", home, "--prompt", "a", "--decoder", "exact_mode", "--length", 3]
    typed = line(*words, "--budget", 4)
    assert line(*words)["calls"] > 4
    monkeypatch.setattr("remask.cli.decode.MOST_NODES", 4)
    usual = line(*words)
    assert {**usual, "seconds": 0} == {**typed, "seconds": 0}


def test_standard_input_and_empty_lines_are_prompts(remask, home, monkeypatch, tmp_path):
    (tmp_path / "prompts").write_text("a\n\nb\n")
    with (tmp_path / "prompts").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        done = remask("decode", home, "--data", "-", "--tokens", 3, "--json")
    assert done.status == 0, done.err
    assert len(done.out.splitlines()) == 3


def test_texts_alone_go_to_standard_output(remask, home):
    done = remask("decode", home, "--prompt", "a", "--decoder", "exact_mode", "--length", 1, "--beam", 0)
    (text,) = [one for one, _ in by_hand(home, ExactMode(length=1), ["a"], 2)]
    assert done.status == 0
    assert done.out == f"{text}\n"
    assert "no text is better" in done.err
    short = remask(*["decode", home, "--prompt", "a", "--decoder", "exact_mode", "--length", 3, "--budget", 4])
    assert "no text is better by more than " in short.err


@pytest.mark.parametrize("name", DECODERS)
def test_help_shows_every_field_of_every_decoder(remask, name):
    text = remask("decode", "--decoder", name, "--help").out
    assert all(field.help for field in fields(DECODERS[name]))
    assert all(f"{flag_of(field.name)} " in text for field in fields(DECODERS[name]))
    assert name in text


def test_only_rows_stream():
    assert set(DECODERS) >= STREAMS


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--prompt", "a" * WINDOW, "--tokens", "4"],
            ["has 48 tokens, a text of up to 4", "reads 47, has room for 0: shorten the prompt."],
        ),
        (["--prompt", "a" * 40, "--length", "9"], ["has 40 tokens, a text of up to 10", "--tokens 7 or less"]),
        (["--length", "4", "--tokens", "4"], ["length of 4", "5 tokens"]),
        (["--length", "9", "--budget", "5"], ["10 tokens and as many nodes", "5 nodes"]),
        (["--decoder", "exact_mode", "--length", "9", "--budget", "5"], ["10 tokens and as many nodes"]),
        (["--length", "-1"], ["--length 0 or more"]),
        (["--beam", "0"], ["--beam 1 to"]),
        (["--tokens", "0"], ["--tokens came as 0"]),
        (["--budget", "0"], ["--budget came as 0"]),
        (["--prompt", "a", "--data", "b"], ["--prompt came with --data"]),
        (["--prompt", "a [MASK]"], ["holds the mask token"]),
        (["--data", "nowhere.txt"], ["there is no file 'nowhere.txt'"]),
        (["--decoder", "beem"], ["no decoder named 'beem'; did you mean 'beam'?"]),
        (["--n", "3"], ["beam has no --n, which belongs to sampling"]),
        (["--decoder", "sampling", "--decoder", "beam"], ["--decoder came as sampling and as beam"]),
        (["--beam", "many"], ["'many' came where a whole number was wanted"]),
        (["--nonsense"], ["unrecognized arguments: --nonsense"]),
        (["--decoder", "conditional_beam", "--attribute", "rhymes"], ["no attribute named 'rhymes'"]),
        (["--decoder", "conditional_beam", "--classifier", "nowhere"], ["nowhere"]),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_decoding_that_cannot_be(remask, home, words, said):
    refused(remask("decode", home, *words), *said)


def test_lines_that_cannot_be_are_told_before_the_work(remask, home, tmp_path):
    (tmp_path / "prompts").write_text("a\n" + "b" * WINDOW + "\n")
    done = remask("decode", home, "--data", tmp_path / "prompts", "--tokens", 4, "--json")
    refused(done, "the prompt in line 2 has 48 tokens")
    assert done.out == ""
    (tmp_path / "empty").write_text("")
    refused(remask("decode", home, "--data", tmp_path / "empty"), "holds no prompt")


def test_other_models_are_a_sentence(remask, home, translator, tmp_path):
    refused(remask("decode", "nowhere"), "no checkpoint directory at nowhere")
    shutil.copytree(home, tmp_path / "masked")
    (tmp_path / "masked" / "config.json").write_text('{"model_type": "modernbert"}')
    refused(remask("decode", tmp_path / "masked"), "is a masked model")
    refused(remask("decode", translator, "--prompt", "a" * 30, "--tokens", 4), "source of 31 tokens", "reads 20")
    refused(remask("decode", translator, "--prompt", "a", "--tokens", 30), "--tokens 20 or less")
    refused(remask("decode", translator, "--prompt", "a", "--decoder", "hidden_state"), "hidden states")
