"""The commands that take longer: the whole demo, and the bench."""

import json

import pytest

from remask.report.markup import outside
from tests.train.runs import command, refused, well

pytestmark = pytest.mark.slow


def test_demo(tmp_path):
    run = tmp_path / "demo"
    done = well(command("demo", "--steps", "3", "--out", str(run), "--json"))
    found = done.json
    assert {"bits_per_byte", "perplexity", "nats_per_token", "unigram", "bigram", "trigram"} <= set(found)
    assert {"unigram_entropy", "unigram_entropy_held_out", "report", "seconds", "step", "tokens"} <= set(found)
    assert found["step"] == 3
    assert found["unigram"]["value"] > found["bigram"]["value"] > found["trigram"]["value"] > 1
    html = (run / "report.html").read_text(encoding="utf-8")
    assert found["report"] == str(run / "report.html")
    assert outside(html) == []
    assert "remask demo --steps 3" in html
    facts = json.loads((run / "remask.json").read_text())
    assert facts["data"]["shared_passages"] == 0
    assert facts["data"]["repeats"]["share"] > 0.1  # 19 % on Python 3.11: the copies, not the first occurrences
    refused(command("demo", "--steps", "3", "--out", str(run)), "--resume", "--overwrite")


def test_bench():
    toy = "bench train --seconds 0.2 --rounds 1 --vocabularies 300 --net tiny --length 16 --batch 2 --json"
    done = well(command(*toy.split()))
    rows = {row["arm"]: row for row in map(json.loads, done.out.splitlines())}
    assert {"fused", "plain", "masked", "full", "bert"} <= set(rows)
    assert rows["fused"]["loss"] == pytest.approx(rows["full"]["loss"], abs=1e-2)
    assert rows["masked"]["loss"] == pytest.approx(rows["full"]["loss"], abs=1e-2)
    for row in rows.values():
        assert row["tokens_per_second"] > 0
        assert row["peak_mb"] > 100
    assert rows["full"]["speed_over_full"] == 1
    assert rows["bert"]["speed_over_bert"] == 1


def test_the_lines_of_the_issue(tmp_path):
    """Train, evaluate, sample, fill, score, report, in processes of their own."""
    from tests.train.runs import data, held

    run = str(tmp_path / "run")
    words = f"--data {data()} {data()} --valid {held()} --out {run} --net tiny --length 32 --batch 4 --steps 4 --seed 0"
    well(command("train", "mdlm", *words.split(), "--tokenizer", "bpe:300"))
    assert {"bits_per_byte", "perplexity", "nats_per_token"} <= set(
        well(command("evaluate", run, "--data", str(held()), "--json")).json
    )
    sampled = well(command(*f"sample {run} --n 2 --length 32 --sampler first_hitting --seed 0 --json".split()))
    assert [json.loads(line)["calls"] for line in sampled.out.splitlines()] == [32, 32]
    filled = well(command("fill", run, "The [MASK] statement is used to [MASK] [MASK] .", "--json")).json
    assert "[MASK]" not in filled["text"]
    scored = well(command("score", run, "--data", str(held()), "--json"))
    assert len(scored.out.splitlines()) == len(held().read_text().splitlines())
    assert well(command("list")).out
    assert well(command("report", run, "--json")).json["report"].endswith("report.html")
