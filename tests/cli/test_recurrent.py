"""A recurrent run from end to end: begun from any causal model, weighed as a stream, resumed bit for bit."""

import gc
import math
import shutil

import pytest
import torch
import transformers

from remask.data.tokenizers import byte_tokenizer
from remask.train.checkpoint import load, sound
from tests.train.runs import causal, data, held, refused, weights

WINDOW = 16
FLAGS = f"--length 64 --window {WINDOW} --batch 4 --seed 0 --evaluations 2 --save-steps 4 --no-bf16 --json".split()


def words(out, *more, init=None, steps=8):
    """A small training; words in `more` come last and win."""
    begun = ["--init", init or causal()]
    return [
        "train",
        "recurrent",
        "--data",
        data(),
        "--valid",
        held(),
        "--out",
        out,
        *FLAGS,
        "--steps",
        steps,
        *begun,
        *more,
    ]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """As published ones are: no mask token, and as many embeddings as tokens."""
    path = tmp_path_factory.mktemp("recurrent") / "gpt2"
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    shape = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48}
    end = tokenizer.eos_token_id
    config = transformers.GPT2Config(**shape, bos_token_id=end, eos_token_id=end, resid_pdrop=0.0)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, begun from one of ours."""
    from remask.cli import main

    out = tmp_path_factory.mktemp("recurrent") / "run"
    assert main([str(word) for word in words(out)]) == 0
    return out


def test_a_long_text_is_one_stream(line, run):
    """The figures are those of the same tokens as one row, and of no other cut."""
    found = line("evaluate", run, "--data", held())
    row = line("evaluate", run, "--data", held(), "--length", found["tokens"])
    assert row["rows"] == 1
    assert found["nats_per_token"]["value"] == pytest.approx(row["nats_per_token"]["value"], rel=1e-5)
    assert found["bits_per_byte"]["value"] == pytest.approx(row["bits_per_byte"]["value"], rel=1e-5)
    cut = line("evaluate", run, "--data", held(), "--length", WINDOW)
    assert cut["nats_per_token"]["value"] != pytest.approx(found["nats_per_token"]["value"], rel=1e-5)
    assert found["window"] == WINDOW


def test_nothing_is_carried_between_documents(line, run, tmp_path):
    """Lines as documents of their own: their sum is that of each alone."""
    some = ["a mask token returns a value", "else while the loop", "import class object list string index"]
    (tmp_path / "all.txt").write_text("".join(f"{one}\n" for one in some))
    together = line("evaluate", run, "--data", tmp_path / "all.txt", "--document", "line")
    total = 0.0
    for number, one in enumerate(some):
        (tmp_path / f"{number}.txt").write_text(one)
        alone = line("evaluate", run, "--data", tmp_path / f"{number}.txt")
        total += alone["nats_per_token"]["value"] * alone["tokens"]
    assert together["nats_per_token"]["value"] * together["tokens"] == pytest.approx(total, rel=0.02)  # windows differ


def test_memory_is_a_windows_whatever_the_length(run):
    """The stream keeps a vector: no tensor that it holds between windows grows."""
    from remask.decoders.recurrence import Recurrence, Recurring
    from remask.nets.causal import CausalNet

    opened = load(run)
    plain = CausalNet(opened.net.model, opened.alphabet.end, opened.alphabet.end)
    stream = Recurrence().stream(Recurring(opened.net, plain), torch.randint(5, 100, (1, 6 * WINDOW)))
    sizes = [alive() for _ in stream]
    assert len(sizes) == 6
    assert len(set(sizes[1:-1])) == 1, sizes


def alive():
    """Numbers in all tensors that something holds."""
    gc.collect()
    return sum(one.numel() for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))


def test_a_published_model_needs_no_mask(line, remask, gpt2, tmp_path):
    out = tmp_path / "run"
    done = remask(*words(out, init=gpt2, steps=3))
    assert done.status == 0, done.err
    assert load(out).net.window == WINDOW
    weighed = line("evaluate", out, "--data", held())
    assert 0 < weighed["nats_per_token"]["value"] < 2 * math.log(300)
    refused(remask("sample", out), "autoregressive net, which cannot fill masks")
    refused(remask("fill", out, "a [MASK] b"), "autoregressive net, which cannot fill masks")


def test_killed_and_resumed(remask, run, tmp_path):
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    for name in ("recipe.json", "history.jsonl"):
        shutil.copy(run / name, again / name)
    shutil.copytree(run / "checkpoints/checkpoint-4", again / "checkpoints/checkpoint-4")
    done = remask(*words(again, "--resume"))
    assert done.status == 0, done.err
    assert weights(again) == weights(run)
    assert (again / "base/model.safetensors").read_bytes() == (run / "base/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["base/model.safetensors", "base/config.json"])
def test_a_checkpoint_without_its_base_is_not_sound(run, tmp_path, name):
    copy = tmp_path / "checkpoint"
    shutil.copytree(run / "checkpoints/checkpoint-8", copy)
    assert sound(copy)
    (copy / name).unlink()
    assert not sound(copy)
    shutil.rmtree(copy / "base")
    assert not sound(copy)


def test_it_is_replaced_whole(remask, run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    refused(remask(*words(out)), "--overwrite")
    done = remask(*words(out, "--overwrite", steps=1))
    assert done.status == 0, done.err
    assert load(out).facts["step"] == 1


def test_other_commands_say_what_to_type(remask, line, run):
    refused(remask("decode", run), "carries a vector from window to window", "base for the model alone")
    refused(remask("evaluate", run, "--data", held(), "--adapt", "cache"), "base for the model alone")
    assert line("decode", run / "base", "--tokens", 4)["tokens"] <= 4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--length", 16], "nothing is carried within one window"),
        (["--window", 4000], "--window 4000 is beyond"),
        (["--causal-first", 0.2], "--causal-first came for a causal net"),
        (["--time-conditioning"], "--time-conditioning came with --init"),
    ],
)
def test_mistakes(remask, tmp_path, more, said):
    refused(remask(*words(tmp_path / "run", *more)), said)


def test_slots_that_are_there_are_kept(remask, run, tmp_path):
    refused(remask(*words(tmp_path / "run", "--reread", 2, init=run)), "--reread came for a net that has slots already")
    done = remask(*words(tmp_path / "run", init=run, steps=1))
    assert done.status == 0, done.err
