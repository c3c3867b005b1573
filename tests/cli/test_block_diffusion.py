"""Block diffusion from end to end: trained, weighed, sampled with the cache and without it, resumed bit for bit."""

import json
import shutil

import pytest

from remask.nets.blockwise import BlockNet
from remask.train.checkpoint import load
from tests.train.runs import data, held, refused, trained, weights

FLAGS = "--net tiny --length 30 --block 8 --batch 4 --evaluations 2 --save-steps 4 --no-bf16 --json".split()  # noqa: SIM905


def words(out, *more, steps=8):
    """A small training; words in `more` come last and win."""
    texts = ["--data", data(), "--valid", held(), "--tokenizer", "byte"]
    return ["train", "block_diffusion", *texts, "--out", out, *FLAGS, "--steps", steps, *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; its last blocks have 6 cells."""
    from remask.cli import main

    out = tmp_path_factory.mktemp("blocks") / "run"
    assert main([str(word) for word in words(out)]) == 0
    return out


def test_it_is_a_net_of_blocks_that_reads_first(run):
    found = load(run)
    assert isinstance(found.net, BlockNet)
    assert found.net.block == 8
    assert found.facts["recipe"]["start"]["causal_first"] == 0.2
    assert found.facts["metrics"]["bits_per_byte"]["value"] > 0


def test_the_cache_changes_no_text(lines, run):
    sampled = [
        lines("sample", run, "--n", 3, "--length", 30, "--sampler", "blocks", "--steps-per-block", 4, *more)
        for more in ([], ["--no-cache"], ["--cache", "exact", "--batch", 1])
    ]
    texts = [[one["text"] for one in found] for found in sampled]
    assert texts[0] == texts[1] == texts[2]
    assert all(one["calls"] <= 16 for one in sampled[0])  # four blocks
    prompted = lines("sample", run, "--n", 2, "--length", 30, "--sampler", "blocks", "--prompt", "a mask token")
    assert all(one["text"].startswith("a mask token") for one in prompted)


def test_evaluate_and_score(line, lines, run):
    found = line("evaluate", run, "--data", held(), "--draws", 4)
    again = line("evaluate", run, "--data", held(), "--draws", 4)
    assert found == again
    assert found["nats_per_token"]["value"] > 0
    scored = lines("score", run, "--data", held())
    assert len(scored) == len(held().read_text().splitlines())


def test_parts_of_the_noise_levels(line, remask, run):
    """All of them and the halves, least variance first; the whole's loss is the bound that `evaluate` tells."""
    found = line("evaluate", run, "--data", held(), "--clips", "--draws", 16)
    variances = [one["variance"] for one in found["clips"]]
    assert variances == sorted(variances)
    assert len(variances) == 12
    (whole,) = [one for one in found["clips"] if (one["low"], one["high"]) == (0, 1)]
    bound = line("evaluate", run, "--data", held(), "--draws", 16)["nats_per_token"]
    assert abs(whole["nats"] - bound["value"]) < 4 * bound["stderr"] + 0.05
    refused(remask("evaluate", trained(), "--data", held(), "--clips"), "no net of blocks")
    refused(remask("evaluate", run, "--data", held(), "--clips", "--draws", 1), "needs 2 or more")
    refused(remask("evaluate", run, "--data", held(), "--clips", "--adapt", "none"), "--data alone")


def test_killed_and_resumed(remask, run, tmp_path):
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    for name in ("recipe.json", "history.jsonl"):
        shutil.copy(run / name, again / name)
    shutil.copytree(run / "checkpoints/checkpoint-4", again / "checkpoints/checkpoint-4")
    done = remask(*words(again, "--resume"))
    assert done.status == 0, done.err
    assert weights(again) == weights(run)


def test_begun_from_a_masked_net_and_from_one_of_blocks(remask, run, tmp_path):
    def from_(init, *more):
        begun = [
            word for word in words(tmp_path / "run", *more, "--overwrite", steps=1) if word not in ("--net", "tiny")
        ]
        at = begun.index("--tokenizer")
        return [*begun[:at], *begun[at + 2 :], "--init", init]

    done = remask(*from_(trained()))
    assert done.status == 0, done.err
    assert load(tmp_path / "run").net.block == 8
    done = remask(*from_(run))
    assert done.status == 0, done.err
    refused(remask(*from_(run, "--block", 4)), "--block 4 came for a net of blocks of 8")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--block", 0], "--block came as 0"),
        (["--clip-low", 0.9, "--clip-high", 0.5], "--clip-low came as 0.9"),
        (["--time-conditioning"], "time-conditioning"),
    ],
)
def test_mistakes_in_training(remask, tmp_path, more, said):
    refused(remask(*words(tmp_path / "run", *more)), said)


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_a_plain_net_with_an_approximate_cache(remask, kind):
    """What a call reads is less, what is promised too; with one block it is the plain net."""
    words = ["sample", trained(), "--n", 3, "--length", 14, "--sampler", "blocks", "--json"]
    texts = {}
    for size in (4, 14):
        for more in ([], ["--cache", kind]):
            done = remask(*words, "--size", size, *more)
            assert done.status == 0, done.err
            assert ("heuristic" in done.err) == bool(more)
            texts[size, bool(more)] = [json.loads(line)["text"] for line in done.out.splitlines()]
    assert texts[14, True] == texts[14, False]
    assert len(texts[4, True]) == 3


def test_mistakes_with_an_approximate_cache(remask, run):
    refused(remask("sample", run, "--length", 30, "--sampler", "blocks", "--cache", "dual"), "--cache exact")
    refused(remask("sample", trained(), "--length", 16, "--cache", "dual"), "--sampler blocks")


def test_mistakes_in_sampling(remask, run):
    refused(remask("sample", run, "--length", 30), "--sampler blocks")
    refused(remask("sample", run, "--length", 30, "--sampler", "blocks", "--size", 5), "blocks of 8 cells")
    refused(remask("sample", run, "--length", 30, "--sampler", "blocks", "--ahead", 2), "leave out --size")
    refused(remask("sample", trained(), "--length", 16, "--cache", "exact"), "remask train block_diffusion")
    refused(remask("fill", run, "a [MASK] b"), "a net of blocks")
    refused(
        remask("sample", run, "--length", 30, "--sampler", "blocks", "--inner", "gibbs", "--steps-per-block", 2), ""
    )
