"""remask windows: files that say what they hold, refusals that lose nothing."""

import json
from pathlib import Path

import pytest

from remask.data.split import fingerprint
from remask.data.text import Document
from tests.data.test_windows import LENGTH, made, written
from tests.train.runs import refused

SIDES = ("train", "valid", "test")


@pytest.fixture
def genome(tmp_path):
    """The words that name a genome and its annotation."""
    records, lines = made()
    fasta = written(tmp_path / "g.fa", [f">{one.name} made up\n{one.sequence.lower()}" for one in records])
    return ["windows", fasta, "--gff", written(tmp_path / "g.gff", lines), "--length", LENGTH]


def tables(out):
    return {side: (out / f"{side}.tsv").read_text() for side in SIDES}


def test_the_files_and_the_record_agree(line, genome, tmp_path):
    out = tmp_path / "a" / "windows"
    record = line(*genome, "--out", out, "--frame", "0", "--n", "200")
    assert {"remask": record.pop("remask", None), **record} | record
    saved = json.loads((out / "windows.json").read_text())
    assert {name: saved[name] for name in record} == record
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["windows.json", "windows.bed", *(f"{side}.tsv" for side in SIDES)]
    )
    found = tables(out)
    assert record["fingerprint"] == fingerprint([Document("", found[side]) for side in SIDES])
    places = [row.split("\t") for row in (out / "windows.bed").read_text().splitlines()]
    assert len(places) == 200
    for side, text in found.items():
        header, *rows = text.splitlines()
        assert header == "label\ttext"
        cells = [row.split("\t") for row in rows]
        assert all(len(text) == LENGTH and set(text) <= set("ACGT") for _, text in cells)
        counts = {label: sum(one == label for one, _ in cells) for label in ("coding", "noncoding")}
        assert counts == record["counts"][side] and counts["coding"] == counts["noncoding"] > 0
        assert sorted(place[3] for place in places if place[3].startswith(side)) == sorted(
            f"{side}:{label}" for label, _ in cells
        )
    assert record["command"].startswith("remask windows ") and "--frame 0" in record["command"]
    assert (record["length"], record["seed"], record["n"], record["frame"]) == (LENGTH, 0, 200, "0")


def test_the_same_seed_writes_the_same_bytes(line, genome, tmp_path):
    first, again, other = (
        line(*genome, "--out", tmp_path / name, "--seed", seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert tables(tmp_path / "a") == tables(tmp_path / "b") != tables(tmp_path / "c")
    assert first["fingerprint"] == again["fingerprint"] != other["fingerprint"]


def test_people_are_told_how_many_there_are(remask, genome, tmp_path):
    done = remask(*genome, "--out", tmp_path / "w")
    assert done.status == 0 and done.out == ""
    said = " ".join(done.err.split())
    assert "half of them coding: train" in said and "has room for" in said and "10000" in said


def test_nothing_of_anybody_is_lost(remask, line, genome, tmp_path):
    out = tmp_path / "w"
    line(*genome, "--out", out)
    before = tables(out)
    refused(remask(*genome, "--out", out, "--seed", "1"), "holds windows", "--overwrite")
    refused(remask(*genome, "--out", out, "--overwrite", "--length", "5000"), "smaller --length")
    assert tables(out) == before
    line(*genome, "--out", out, "--overwrite", "--seed", "1")
    assert tables(out) != before
    refused(remask(*genome, "--out", tmp_path, "--overwrite"), "not windows of remask", "another --out")
    refused(remask(*genome, "--out", tmp_path / "g.fa"), "is a file", "another --out")


def test_what_cannot_be_cut(remask, genome, tmp_path):
    out = ["--out", tmp_path / "w"]
    other = written(tmp_path / "other.fa", [">chrX", "ACGT" * 5000])
    refused(remask("windows", other, *genome[2:], *out), "'contig1', 'contig2'", "'chrX'")
    short = written(tmp_path / "short.fa", [">contig1", "ACGT" * 500, ">contig2", "ACGT" * 500])
    refused(remask("windows", short, *genome[2:], *out), "beyond the end", "contig1 has 2000 bases")
    refused(remask("windows", tmp_path / "no.fa", *genome[2:], *out), "there is no file", "no.fa")
    refused(remask(*genome, *out, "--gff", tmp_path / "g.fa"), "holds no features")
    refused(remask(*genome, *out, "--frame", "2"), "no frame named '2'")
    refused(remask(*genome, *out, "--n", "1"), "--n came as 1")
    refused(remask(*genome, *out, "--held-out", "1"), "--held-out came as 1.0")
    refused(remask("windows", *genome[1:2], *out), "--gff")
    assert not (tmp_path / "w").exists()


def test_an_annotation_of_another_version_of_the_sequence(remask, genome, tmp_path):
    gff = Path(genome[3]).read_text()
    other = tmp_path / "other.gff"
    other.write_text("##gff-version 3\n##sequence-region contig1 1 999999\n" + gff.split("\n", 1)[1])
    words = [other if word == genome[3] else word for word in genome]
    refused(remask(*words, "--out", tmp_path / "w"), "line 2", "999999 bases", "contig1")
