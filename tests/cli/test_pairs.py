"""evaluate --minimal-pairs and --probe: figures, tables, and bad input."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
import transformers

from remask.core.alphabet import Alphabet
from remask.data.tokenizers import byte_tokenizer
from remask.metrics.minimal_pairs import by_kind, minimal_pairs
from remask.nets import encoder
from remask.train.opening import open_any
from remask.train.pairs import read_pairs, score_sentences
from tests.train.runs import refused

LENGTH = 48


def save(path, model):
    model.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Untrained nets that read bytes: a masked one, a causal one, a detector, and a trunk without a head."""
    tokenizer = byte_tokenizer()
    alphabet = Alphabet(len(tokenizer), tokenizer.mask_token_id, tokenizer.pad_token_id, 2, frozenset(range(4)))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ElectraConfig(
        vocab_size=len(tokenizer), embedding_size=32, max_position_embeddings=LENGTH, **shape
    )
    bert = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {
            "masked": encoder.build("tiny", alphabet, LENGTH).model,
            "causal": encoder.build("tiny", alphabet, LENGTH, causal=True).model,
            "detector": transformers.ElectraForPreTraining(config),
            "bare": transformers.BertModel(bert),
        }
    folder = tmp_path_factory.mktemp("nets")
    return {name: save(folder / name, model) for name, model in made.items()}


@pytest.fixture(scope="module")
def blimp(tmp_path_factory):
    """Twelve pairs of two kinds."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(pair(i, 'agreement' if i % 3 else 'islands'))}\n" for i in range(12)))
    return path


def pair(i, kind="k"):
    return {"sentence_good": f"Cat {i} sleeps.", "sentence_bad": f"Cat {i} sleep.", "UID": kind}


@pytest.mark.parametrize(
    ("kind", "said"), [("masked", "pseudo-log-likelihood"), ("causal", "log-likelihood"), ("detector", "log p(real)")]
)
def test_pairs_are_the_librarys(line, nets, blimp, kind, said):
    found = line("evaluate", nets[kind], "--minimal-pairs", blimp, "--batch-tokens", 500)
    pairs = read_pairs(blimp)
    scores = score_sentences(open_any(nets[kind]), [text for p in pairs for text in p[:2]], batch_tokens=500)
    kinds = [p.kind for p in pairs]
    for name, estimate in minimal_pairs(scores[::2], scores[1::2], kinds=kinds):
        assert found[name] == estimate.json()
    each = by_kind(scores[::2], scores[1::2], kinds)
    assert found["by_uid"] == {uid: estimate.json() for uid, estimate in each.items()}
    assert (found["pairs"], found["uids"], found["by_uid"]["islands"]["n"]) == (12, 2, 4)
    assert said in found["kind"]


def test_fewer_pairs_and_a_table(remask, line, nets, blimp):
    words = ["evaluate", nets["detector"], "--minimal-pairs", blimp, "--pairs", 3]
    assert line(*words)["pairs"] == 6
    shown = remask(*words).out
    assert "6 pairs" in shown
    assert all(name in shown for name in ("agreement", "islands", "accuracy macro"))


def test_the_table_is_sorted(remask, nets, tmp_path):
    """The worst kind first: sentences against themselves are ties, longer sentences lose against shorter ones."""
    tie = {**pair(1, "tie"), "sentence_bad": pair(1)["sentence_good"]}
    lost = {**pair(1, "lost"), "sentence_good": "Cat cat cat cat cat cat cat.", "sentence_bad": "Cat."}
    won = {**lost, "sentence_good": lost["sentence_bad"], "sentence_bad": lost["sentence_good"], "UID": "won"}
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [won, tie, lost])))
    shown = remask("evaluate", nets["detector"], "--minimal-pairs", path).out
    rows = {row.split()[0]: row.split()[1] for row in shown.splitlines() if row[:4] in ("tie ", "won ", "lost")}
    assert rows == {"lost": "0.0000", "tie": "0.5000", "won": "1.0000"}
    assert list(rows) == ["lost", "tie", "won"]


LINES = {
    "damaged": ('{"sentence_good": "a', "line 2", "not JSON"),
    "a list": ("[1]", "line 2", "is a list"),
    "no field": ('{"sentence_good": "a", "bad": "b", "UID": "c"}', "line 2", "no field 'sentence_bad'", "bad, UID"),
    "a number": ('{"sentence_good": 3, "sentence_bad": "b", "UID": "c"}', "line 2", "is a int"),
    "empty": ('{"sentence_good": " ", "sentence_bad": "b", "UID": "c"}', "line 2", "is empty"),
    "too long": (json.dumps({**pair(1), "sentence_good": "x" * 60}), "1 of 3 sentences", f"{LENGTH} tokens", "has 61"),
}


@pytest.mark.parametrize("case", LINES)
def test_bad_lines(remask, nets, tmp_path, case):
    bad, *said = LINES[case]
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(pair(1))}\n{bad}\n")
    refused(remask("evaluate", nets["masked"], "--minimal-pairs", path), *said)


def test_bad_files_and_words(remask, nets, blimp, tmp_path):
    word = ["evaluate", nets["masked"], "--minimal-pairs"]
    refused(remask(*word, tmp_path / "none.jsonl"), "there is no file", "sentence_good")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    refused(remask(*word, tmp_path / "empty.jsonl"), "holds no pairs")
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b\x08nonsense")
    refused(remask(*word, tmp_path / "a.jsonl.gz"), "not a whole gzip file")
    refused(remask(*word, blimp, "--pairs", 0), "--pairs came as 0")
    refused(remask(*word, blimp, "--batch-tokens", 0), "--batch-tokens came as 0")
    refused(remask(*word, blimp, "--data", blimp), "one of them at a time")
    refused(remask("evaluate", nets["masked"]), "nothing to weigh on", "--minimal-pairs")
    refused(remask("evaluate", nets["bare"], "--minimal-pairs", blimp), "no usable prediction head")


# ---- probes ----------------------------------------------------------------------------------------------------------


def labelled(path, rows, seed):
    """Two classes that a single word tells apart."""
    chance = random.Random(seed)
    kinds = {"water": ["fish", "boat"], "air": ["bird", "wing"]}
    with path.open("w") as file:
        for _ in range(rows):
            label = chance.choice(list(kinds))
            file.write(f"{label}\tthe {chance.choice(kinds[label])} is {chance.choice('abcde')}\n")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return labelled(folder / "train.tsv", 60, 0), labelled(folder / "test.tsv", 30, 1)


@pytest.mark.parametrize("kind", ["masked", "detector", "bare"])
def test_a_probe(line, nets, texts, kind):
    train, test = texts
    found = line("evaluate", nets[kind], "--probe", train, "--data", test, "--columns", "label,text")
    assert found["bag_of_tokens"]["accuracy"]["value"] == 1
    assert found["probe"]["accuracy"]["value"] > found["majority"]["accuracy"]["value"]
    assert found["probe"]["macro_f1"]["n"] == 30
    assert (found["classes"], found["rows"], found["cut"]) == (
        2,
        {"train": 60, "test": 30},
        {"train": 0, "test": 0},
    )


def test_the_table_of_a_probe_says_what_was_cut(remask, nets, texts, tmp_path):
    train, _ = texts
    (tmp_path / "long.tsv").write_text("air\t" + "bird " * 30 + "\nwater\tthe fish\n")
    done = remask(
        "evaluate", nets["detector"], "--probe", train, "--data", tmp_path / "long.tsv", "--columns", "label,text"
    )
    assert done.status == 0
    assert all(name in done.out for name in ("hidden states", "counts of tokens", "majority class"))
    assert "1 test texts were longer" in done.err


def test_a_probe_of_pairs(line, nets, tmp_path):
    rows = [("same", "a bird", "a bird"), ("other", "a bird", "a fish")] * 8
    path = tmp_path / "pairs.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    words = ["evaluate", nets["masked"], "--probe", path, "--data", path, "--columns", "label,text,text_pair"]
    assert line(*words)["probe"]["accuracy"]["value"] == 1


def test_bad_probes(remask, nets, texts, tmp_path):
    train, test = texts
    word = ["evaluate", nets["masked"], "--probe", train]
    refused(remask(*word), "--probe came without --data")
    refused(remask(*word, "--data", test, test, "--columns", "label,text"), "2 files")
    (tmp_path / "new.tsv").write_text("fire\tthe flame\n")
    refused(remask(*word, "--data", tmp_path / "new.tsv", "--columns", "label,text"), "'fire'", "never saw")
    (tmp_path / "one.tsv").write_text("air\tthe bird\n" * 3)
    one = ["evaluate", nets["masked"], "--probe", tmp_path / "one.tsv", "--data", test, "--columns", "label,text"]
    refused(remask(*one), "one class only")


@pytest.mark.slow
def test_blimp_itself(line, tmp_path):
    """67 kinds, and an untrained net near chance: it may like short sentences, or long ones."""
    path = Path(__file__).parents[2] / os.environ.get("REMASK_DATA", "../shared/data") / "blimp" / "blimp.jsonl.gz"
    if not path.exists():
        pytest.skip("no BLiMP here; set REMASK_DATA")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ElectraConfig(vocab_size=260, embedding_size=32, max_position_embeddings=256, **shape)
    net = save(tmp_path / "net", transformers.ElectraForPreTraining(config))
    found = line("evaluate", net, "--minimal-pairs", path, "--pairs", 20)
    assert (found["uids"], found["pairs"]) == (67, 1340)
    assert 0.3 < found["accuracy"]["value"] < 0.7
