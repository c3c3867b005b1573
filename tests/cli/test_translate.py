"""remask translate: a line for a line, scores, a file of pairs, and sentences for what cannot be."""

import io
import json
import os
import subprocess
import sys

import pytest
import sacrebleu
import torch
from transformers import T5Config, T5ForConditionalGeneration

from remask.cli import translate
from remask.nets.crossed import clone
from remask.nets.t5 import T5Net
from remask.train.translator import Translator
from tests.nets.tiny import make
from tests.train.runs import refused
from tests.translate.nets import ALPHABET, TOKENIZER, WINDOW, parallel

TEXTS = ["One.", "A cat sat there", "", "x", "12 34 56", "Nein!", "So it goes"]


def written(directory, net, objective):
    net.save(directory)
    TOKENIZER.save_pretrained(directory)
    facts = {"objective": objective, "recipe": {"text": {"length": WINDOW}}, "data": {"fingerprint": "f00d"}}
    (directory / "remask.json").write_text(json.dumps(facts))
    return directory


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Checkpoints of some objectives, sources, references, pairs."""
    home = tmp_path_factory.mktemp("translate")
    for name, rest in (("cmlm", {}), ("padir", {}), ("sundae", {}), ("axe", {"length_factor": 1.5})):
        written(home / name, parallel(), {"name": name, **rest})
    torch.manual_seed(2)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": ALPHABET.size}
    ids = {"pad_token_id": ALPHABET.pad, "eos_token_id": ALPHABET.end, "decoder_start_token_id": ALPHABET.pad}
    written(home / "seq2seq", T5Net(T5ForConditionalGeneration(T5Config(**shape, **ids))), {"name": "seq2seq"})
    (home / "source.txt").write_text("\n".join(TEXTS) + "\n")
    (home / "pairs.tsv").write_text("".join(f"{text[::-1]}\t{text}\n" for text in TEXTS))
    return home


def outputs(lines, home, *words, model="cmlm"):
    found = lines("translate", home / model, "--data", home / "source.txt", *words)
    return found[:-1], found[-1]


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_one_line_out_per_line_in(home, remask, lines):
    done = remask("translate", home / "cmlm", "--data", home / "source.txt")
    assert done.status == 0
    found, summary = outputs(lines, home)
    assert done.out.split("\n")[:-1] == [one["text"] for one in found]
    assert len(found) == len(TEXTS) == summary["lines"]
    assert found[2] == {"text": "", "length": 0, "calls": 0, "log_prob": 0.0, "source_tokens": 0}
    assert summary["empty"] == 1
    assert summary["sentences_per_second"] > 0
    assert "bleu" not in summary
    assert "1 empty sources" in done.err
    assert "a second" in done.err


@pytest.mark.parametrize("words", [("--batch", 1), ("--batch", 2, "--seed", 0)], ids=str)
def test_batches_change_nothing(home, lines, words):
    assert outputs(lines, home, *words)[0] == outputs(lines, home)[0]


@pytest.mark.parametrize(
    ("model", "words", "calls"),
    [
        ("cmlm", (), 4),
        ("axe", (), 1),
        ("cmlm", ("--steps", 2), 2),
        ("axe", ("--sampler", "mask_predict"), 1),
        ("cmlm", ("--sampler", "padir", "--steps", 1), 1),
        ("cmlm", ("--lengths", 3, "--shifts", 3, "--rank", "mean"), 4),
    ],
    ids=str,
)
def test_a_checkpoint_is_decoded_as_it_was_trained(home, lines, model, words, calls):
    found, _ = outputs(lines, home, *words, model=model)
    assert {one["calls"] for one in found if one["length"]} == {calls}


@pytest.mark.parametrize(("model", "most"), [("padir", 4), ("sundae", 10)])
def test_those_that_stop_early_stop_at_their_steps(home, lines, model, most):
    found, _ = outputs(lines, home, model=model)
    assert all(1 <= one["calls"] <= most for one in found if one["length"])


def test_the_length_factor_is_that_of_the_training(home, lines):
    lengths = {words: [one["length"] for one in outputs(lines, home, *words, model="axe")[0]] for words in FACTORS}
    typed, plain = lengths["--length-factor", "1.5"], lengths["--length-factor", "1"]
    assert lengths[()] == typed
    assert [min(round(1.5 * n), WINDOW - 1) for n in plain] == typed != plain


def test_lengths_of_cmlm_are_compared_by_the_mean(home, remask, lines):
    def found(*words, model="cmlm"):
        return outputs(lines, home, "--lengths", 9, "--steps", 1, *words, model=model)[0]

    total, mean = (found("--rank", how) for how in ("sum", "mean"))
    assert total != mean
    assert found() == mean
    assert found("--length-penalty", 0) == total, "a penalty divides the sum"
    assert found(model="axe") == found("--rank", "sum", model="axe")
    refused(
        remask(*map(str, ("translate", home / "cmlm", "--data", home / "source.txt", "--rank", "mean")), *PENALTY),
        "--rank mean came too",
    )
    for words in ((), (home / "cmlm",), (home / "axe",)):
        text = " ".join(remask("translate", *words, "--help").out.split())
        assert "default: what DIR was trained for: mean for cmlm, else sum" in text


PENALTY = ("--length-penalty", "1")


def test_a_factor_below_one_writes_shorter(home, lines):
    short, plain = (outputs(lines, home, "--length-factor", factor)[0] for factor in (0.5, 1))
    assert [max(round(one["length"] / 2), 1) for one in plain if one["length"]] == [
        one["length"] for one in short if one["length"]
    ]


def test_the_window_is_what_was_trained_on_as_far_as_both_parts_reach():
    def of(net, **text):
        return Translator(net, TOKENIZER, ALPHABET, {"recipe": {"text": text}} if text else {}, "here").window

    assert of(parallel()) == of(parallel(), length=400) == WINDOW
    assert of(parallel(), length=9) == 9
    half = make("bert")
    crossed = clone(half, longest_target=20)
    assert (of(crossed), of(crossed, length=30), half.length) == (21, 21, 40)
    narrow = clone(half, writer=make("modernbert"), longest_target=half.length - 1)
    narrow.encoder.model.config.max_position_embeddings = 16
    assert of(narrow, length=30) == 16


FACTORS = ((), ("--length-factor", "1.5"), ("--length-factor", "1"))


def test_standard_input(home, remask, monkeypatch):
    wanted = remask("translate", home / "cmlm", "--data", home / "source.txt").out
    data = "\r\n".join(TEXTS).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert remask("translate", home / "cmlm", "--data", "-").out == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\nt\xff\n")))
    refused(remask("translate", home / "cmlm", "--data", "-"), "line 2 of standard input is not UTF-8")


@pytest.mark.parametrize("model", ["cmlm", "seq2seq"])
def test_long_sources_are_told_and_counted(home, remask, lines, tmp_path, model):
    long = tmp_path / "long.txt"
    long.write_text("One two three. Four five six.\nshort\n" * 2)
    done = remask("translate", home / model, "--data", long)
    assert "line 1 has 29 tokens and the net reads 15" in " ".join(done.err.split())
    assert "2 sources were longer" in done.err
    split, cut = (lines("translate", home / model, "--data", long, "--long", how) for how in ("split", "truncate"))
    assert [one["source_tokens"] for one in split[:-1]] == [28, 5, 28, 5]
    assert [one["source_tokens"] for one in cut[:-1]] == [15, 5, 15, 5]
    assert split[-1]["long"] == cut[-1]["long"] == 2


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(home):
    reader, writer = os.pipe()
    os.close(reader)
    words = ["translate", str(home / "cmlm"), "--data", str(home / "source.txt")]
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "remask.cli", *words], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


def test_a_left_to_right_net_is_decoded_greedily_or_with_a_beam(home, lines):
    greedy, _ = outputs(lines, home, model="seq2seq")
    assert outputs(lines, home, "--beam", 1, model="seq2seq")[0] == greedy
    assert outputs(lines, home, "--batch", 1, model="seq2seq")[0] == greedy
    assert all(one["calls"] <= WINDOW and one["length"] <= WINDOW for one in greedy)
    free, _ = outputs(lines, home, "--beam", 4, "--length-penalty", 0, model="seq2seq")
    better = [one["log_prob"] - other["log_prob"] for one, other in zip(free, greedy)]
    assert min(better) > -1e-3
    assert max(better) > 0.1


@pytest.mark.parametrize("model", ["cmlm", "padir", "seq2seq"])
def test_bfloat16_says_nearly_the_same(home, lines, model):
    """To rounding: 8 bits of each weight are left."""
    plain, _ = outputs(lines, home, *(["--steps", 1] * (model != "seq2seq")), model=model)
    half, _ = outputs(lines, home, *(["--steps", 1] * (model != "seq2seq")), "--bf16", model=model)
    same = [(a["log_prob"], b["log_prob"]) for a, b in zip(plain, half) if a["text"] == b["text"] and a["text"]]
    assert len(same) >= 2
    assert all(abs(a - b) < 0.05 * abs(a) for a, b in same)
    assert any(a != b for a, b in same), "it is another arithmetic"


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_sacrebleus_of_the_lines_that_came_out(home, lines, remask, tmp_path):
    found, _ = outputs(lines, home)
    texts = [one["text"] for one in found]
    references = [text[:-1] + "?" for text in texts]
    (tmp_path / "ref.txt").write_text("\n".join(references) + "\n")
    again, summary = outputs(lines, home, "--reference", tmp_path / "ref.txt", "--tokenize", "char")
    assert [one["text"] for one in again] == texts
    bleu = sacrebleu.corpus_bleu(texts, [references], tokenize="char")
    assert summary["bleu"] == pytest.approx(bleu.score)
    assert summary["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score)
    assert bleu.score > 5
    assert "tok:char" in summary["signature"]
    assert set(summary["faults"]) >= {"stutter_rate", "length_exact", "length_within_1"}
    words = ("translate", home / "cmlm", "--data", home / "source.txt", "--reference", tmp_path / "ref.txt")
    done = remask(*words)
    assert "BLEU" in done.err
    assert "tok:13a" in done.err
    assert done.out.split("\n")[:-1] == texts


def test_columns_of_pairs_are_sources_and_references(home, lines):
    words = ("--data", home / "pairs.tsv", "--columns", "target,source")
    *found, summary = lines("translate", home / "cmlm", *words)
    assert found == outputs(lines, home)[0]
    assert 0 <= summary["bleu"] <= 100
    *given, summary = lines("translate", home / "cmlm", *words, "--oracle-length")
    assert [one["length"] for one in given] == [len(text) for text in TEXTS]
    assert summary["faults"]["length_exact"]["value"] == 1


# ---- pairs for a student ---------------------------------------------------------------------------------------------


def test_distillation_goes_on_and_tells_of_it(home, lines, remask, tmp_path):
    out = tmp_path / "new" / "distilled.tsv"
    words = ("translate", home / "cmlm", "--data", home / "pairs.tsv", "--columns", "target,source", "--batch", 2)
    (summary,) = lines(*words, "--out", out)
    rows = [line.split("\t") for line in out.read_text().split("\n")[:-1]]
    assert [row[0] for row in rows] == TEXTS
    assert [row[1] for row in rows] == [one["text"] for one in outputs(lines, home)[0]]
    assert summary["out"] == str(out)
    whole = out.read_bytes()
    out.rename(f"{out}.partial")
    with open(f"{out}.partial", "r+b") as file:
        file.truncate(len(whole) - 3)
    (summary,) = lines(*words, "--out", out, "--resume")
    assert summary["resumed"] == 6
    assert out.read_bytes() == whole
    refused(remask(*words, "--out", out), "is there already")
    refused(remask(*words, "--out", out, "--resume", "--seed", 1), "begun with seed 0")
    refused(remask(*words, "--out", out, "--resume", "--bf16"), "begun with decoding", " in bfloat16: type")
    assert remask(*words, "--out", out, "--overwrite").status == 0


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words", "sentence"),
    [
        ("cmlm", ("--data", "nothing.txt"), "no file"),
        ("cmlm", ("--data", "pairs.tsv"), "has columns"),
        ("cmlm", ("--data", "source.txt", "--columns", "source,target"), "which has none"),
        ("cmlm", ("--data", "pairs.tsv", "--columns", "source"), "exactly one source and one target"),
        ("cmlm", ("--data", "source.txt", "--reference", "short.txt"), "has 1 lines and source.txt has 7"),
        ("cmlm", ("--data", "source.txt", "--reference", "blank.txt"), "holds no text"),
        ("cmlm", ("--data", "source.txt", "--reference", "nothing.txt"), "no file"),
        ("cmlm", ("--data", "source.txt", "--beam", "5"), "writes in parallel"),
        ("cmlm", ("--data", "source.txt", "--batch", "0"), "--batch came as 0"),
        ("cmlm", ("--data", "source.txt", "--steps", "0"), "--steps"),
        ("cmlm", ("--data", "source.txt", "--shifts", "2"), "odd number"),
        ("cmlm", ("--data", "source.txt", "--long", "drop"), "split, truncate"),
        ("cmlm", ("--data", "source.txt", "--sampler", "nonsense"), "nonsense"),
        ("cmlm", ("--data", "source.txt", "--reject", "linear"), "belongs to padir"),
        ("cmlm", ("--data", "source.txt", "--oracle-length"), "wants references"),
        ("cmlm", ("--data", "source.txt", "--resume"), "without --out"),
        ("cmlm", ("--data", "source.txt", "--out", "x.txt"), ".tsv"),
        ("cmlm", ("--data", "source.txt", "--reference", "source.txt", "--tokenize", "no"), "no tokenizer"),
        ("seq2seq", ("--data", "source.txt", "--steps", "4"), "--steps is for parallel decoders"),
        ("seq2seq", ("--data", "source.txt", "--lengths=3"), "--lengths is for parallel decoders"),
        ("seq2seq", ("--data", "source.txt", "--length-penalty", "1"), "--length-penalty is for parallel decoders"),
        ("seq2seq", ("--data", "pairs.tsv", "--columns", "source,target", "--oracle-length"), "--oracle-length is for"),
        ("seq2seq", ("--data", "source.txt", "--beam", "0"), "--beam came as 0"),
        ("nowhere", ("--data", "source.txt"), "nowhere"),
        ("masked", ("--data", "source.txt"), "reads no source"),
    ],
    ids=str,
)
def test_bad_input_is_a_sentence(home, remask, monkeypatch, model, words, sentence):
    monkeypatch.chdir(home)
    (home / "short.txt").write_text("one\n")
    (home / "blank.txt").write_text("\n" * len(TEXTS))
    (home / "masked").mkdir(exist_ok=True)
    (home / "masked" / "config.json").write_text('{"model_type": "modernbert"}')
    refused(remask("translate", model, *words), sentence)


def test_without_data_there_is_a_sentence(remask):
    done = remask("translate", "somewhere")
    assert done.status == 2
    assert "--data" in done.err


def test_help_knows_every_flag(remask, home):
    text = remask("translate", "--help").out
    for flag in ("--steps", "--lengths", "--shifts", "--length-penalty", "--beam", "--long", "--out", "--resume"):
        assert flag in text
    assert "--reject-share" in remask("translate", home / "padir", "--help").out
    assert "--gamma" in remask("translate", "--sampler", "entropy_bound", "--help").out


def test_sundae_begins_with_the_noise_of_its_training(remask, tmp_path):
    for noise in ("mask", "random"):
        place = written(tmp_path / noise, parallel(), {"name": "sundae", "noise": noise})
        text = " ".join(remask("translate", place, "--help").out.split())
        assert f"or mask. [default: {noise}]" in text


def test_damaged_facts_are_told(home, remask, tmp_path):
    written(tmp_path / "bad", parallel(), {})
    (tmp_path / "bad" / "remask.json").write_text("{")
    refused(remask("translate", tmp_path / "bad", "--data", home / "source.txt"), "is damaged")
    assert translate.trained([str(tmp_path / "bad")]) == {}


def test_typing_the_usual_sampler_changes_nothing(home, lines):
    """An AXE net has one pass, and the canvas it was trained on, whether or not its sampler is named."""
    untyped, typed = outputs(lines, home, model="axe"), outputs(lines, home, "--sampler", "mask_predict", model="axe")
    assert [one["text"] for one in untyped[0]] == [one["text"] for one in typed[0]]
    assert {one["calls"] for one in typed[0] if one["length"]} == {1}
    assert {one["calls"] for one in outputs(lines, home, "--sampler", "padir", model="axe")[0]} != {1}
