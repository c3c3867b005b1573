"""remask evaluate --adapt: the figures are the library's, flags are those of the row, mistakes are sentences."""

import math

import pytest
import torch
import transformers

from remask.cli.adapting import BLOCK, units
from remask.decoders.adapt import ADAPT, score
from remask.decoders.hidden_state import HiddenState
from remask.train.frozen import load_causal
from tests.train.runs import LENGTH, causal, held, refused, trained


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The beginning of the held-out text: one row in small chunks takes its time."""
    place = tmp_path_factory.mktemp("adapt") / "text.txt"
    place.write_bytes(held().read_bytes()[:200])
    return place


@pytest.mark.parametrize("name", ADAPT)
def test_evaluate_adapt_has_the_figures(line, name, text):
    words = ["evaluate", causal(), "--data", text, "--adapt", name, "--lr", "0.001"]
    found = line(*words)
    assert found == {**line(*words), "seconds": found["seconds"]}
    assert {"bits_per_byte", "perplexity", "nats_per_token"} <= set(found)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(found["nats_per_token"]["value"]))
    assert found["tokens"] == len(text.read_bytes()) + 1  # bytes are its tokens, and an end
    assert found["bits_per_byte"]["value"] == pytest.approx(
        found["nats_per_token"]["value"] * found["tokens"] / (found["tokens"] - 1) / math.log(2)
    )
    assert found["nats_per_token"]["n"] == math.ceil(found["tokens"] / BLOCK)
    assert found["adapt"] == name


def test_at_rate_0_hidden_states_are_the_plain_cache(line, text):
    words = ["evaluate", causal(), "--data", text, "--chunk", 7, "--cache", 20, "--lr", 0, "--adapt"]
    found = [line(*words, name) for name in ("cache", "hidden_state", "dynamic")]
    assert found[0]["nats_per_token"] == found[1]["nats_per_token"] == found[2]["nats_per_token"]
    assert line(*words[:-2], 0.05, "--adapt", "hidden_state")["nats_per_token"] != found[0]["nats_per_token"]


def test_windows_side_by_side_are_what_evaluate_says_of_rows(line, tmp_path):
    """One window for each stream is a row of the usual evaluation."""
    data = tmp_path / "exact.txt"
    data.write_bytes(held().read_bytes()[: 8 * LENGTH - 1])  # and an end
    usual = line("evaluate", causal(), "--data", data, "--length", LENGTH)
    found = line("evaluate", causal(), "--data", data, "--adapt", "none", "--streams", 8, "--window", LENGTH)
    assert (usual["rows"], found["tokens"]) == (8, 8 * LENGTH)
    for name in ("nats_per_token", "bits_per_byte"):
        assert found[name]["value"] == pytest.approx(usual[name]["value"], rel=1e-6)


def test_flags_reach_the_library(line, text):
    frozen = load_causal(causal())
    ids = [*frozen.prompts([text.read_text()])[0], frozen.model.end]
    tokens = torch.tensor(ids[: len(ids) // 2 * 2]).view(2, -1)
    settings = HiddenState(lr=0.02, chunk=5, cache=15, steps=2, beta1=0.5, clip=1.0)
    typed = {"lr": 0.02, "chunk": 5, "cache": 15, "steps": 2, "beta1": 0.5, "clip": 1, "streams": 2}
    words = ["--adapt", "hidden_state", *(word for name, value in typed.items() for word in (f"--{name}", value))]
    found = line("evaluate", causal(), "--data", text, *words)
    assert found["nats_per_token"]["value"] == pytest.approx(float(score(settings, frozen.model, tokens).nats.mean()))
    assert found["settings"]["steps"] == 2
    assert found["streams"] == 2


def test_evaluate_adapt_for_a_person(remask, text):
    done = remask("evaluate", causal(), "--data", text, "--adapt", "cache")
    assert done.status == 0
    assert "bits per byte" in done.out
    shown = remask("evaluate", "--adapt", "hidden_state", "--help")
    assert shown.status == 0
    assert "--beta2" in shown.out
    assert "--temperature" not in shown.out


def test_a_foreign_gpt2_is_weighed(line, tmp_path, text):
    from remask.train.checkpoint import load

    tokenizer = load(causal()).tokenizer
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=48)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = line("evaluate", tmp_path, "--data", text, "--adapt", "hidden_state", "--lr", 0)
    assert found["nats_per_token"] == line("evaluate", tmp_path, "--data", text, "--adapt", "cache")["nats_per_token"]
    assert found["nats_per_token"]["value"] == pytest.approx(math.log(len(tokenizer)), abs=0.2)


def test_units_by_hand():
    nats = torch.cat([torch.full((1, BLOCK), 1.0), torch.full((1, BLOCK), 3.0)], 1).double()
    found = units(nats, torch.full((1, 2 * BLOCK), 2))
    assert found["nats_per_token"].value == 2.0
    assert found["nats_per_token"].stderr == pytest.approx(1.0)
    assert found["bits_per_byte"].value == pytest.approx(1 / math.log(2))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapt", "hiden_state"], "hidden_state"),
        (["--adapt", "cache", "--steps", "2"], "--adapt hidden_state"),
        (["--chunk", "4"], "--adapt cache and dynamic and hidden_state"),
        (["--adapt", "cache", "--adapt", "none"], "once"),
        (["--adapt", "cache", "--length", "16"], "--length"),
        (["--adapt", "cache", "--streams", "0"], "--streams"),
        (["--adapt", "cache", "--streams", "100000"], "streams"),
        (["--adapt", "cache", "--cache", "32", "--chunk", "8"], "--cache of 0 to"),
        (["--adapt", "none", "--window", "4000"], "--window"),
        (["--adapt", "hidden_state", "--lr", "-1"], "learning rate"),
        (["--adapt", "hidden_state", "--lr", "much"], "a number"),
        (["--adapt", "cache", "--minimal-pairs", "x"], "one of them"),
    ],
)
def test_mistakes(remask, words, said, text):
    refused(remask("evaluate", causal(), "--data", text, *words), said)


def test_a_masked_model_is_refused(remask, text):
    refused(remask("evaluate", trained(), "--data", text, "--adapt", "cache"), "masked model")
