"""remask finetune: one JSON object, a report, and a sentence for every mistake."""

import json

import pytest

from tests.train.classifying import directory, task, tsv
from tests.train.runs import refused

QUICK = ("--seeds", 2, "--epochs", 1, "--batch", 16, "--learning-rate", "1e-3", "--no-bf16")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("finetune")
    directory(path / "net", ours=True)
    for kind in ("classify", "pairs", "regress"):
        for seed, name in enumerate(("train", "valid", "test")):
            tsv(path / f"{kind}-{name}.tsv", task(32 if name == "train" else 12, seed, kind), header=kind != "classify")
    return path


def words(place, kind, out):
    columns = ("--columns", "label,text") if kind == "classify" else ()
    files = ("--data", place / f"{kind}-train.tsv", "--valid", place / f"{kind}-valid.tsv")
    return ("finetune", place / "net", *files, "--task", kind, *columns, "--out", out, *QUICK)


@pytest.mark.parametrize("kind", ["classify", "pairs", "regress"])
def test_one_json_object_and_a_report(line, place, tmp_path, kind):
    names = {"pearson", "spearman"} if kind == "regress" else {"accuracy", "macro_f1"}
    found = line(*words(place, kind, tmp_path / "out"), "--test", place / f"{kind}-test.tsv")
    assert names <= set(found) and set(found["test"]) == names
    for part in (found, found["test"]):
        for name in names:
            assert set(part[name]) == {"median", "min", "max", "n"} and part[name]["n"] == 2
            assert part[name]["min"] <= part[name]["median"] <= part[name]["max"]
    facts = json.loads((tmp_path / "out/remask.json").read_text())
    recipe = json.loads((tmp_path / "out/recipe.json").read_text())
    assert facts["metrics"]["valid"] == {name: found[name] for name in names}
    assert recipe["command"].startswith("remask finetune ") and recipe["settings"]["batch"] == 16
    html = (tmp_path / "out/report.html").read_text()
    assert "seed 1" in html and ("Confusion matrix of 3 classes" in html) == (kind != "regress")
    assert "report.html" in facts["files"]


def test_without_test_there_is_none_and_a_person_reads_a_table(remask, place, tmp_path):
    done = remask(*words(place, "classify", tmp_path / "out"))
    assert done.status == 0 and done.out == ""
    assert "2 seeds" in done.err and "accuracy, valid" in done.err and "accuracy, test" not in done.err
    assert "is in" in done.err and (tmp_path / "out/model.safetensors").is_file()


def test_fresh_says_so(line, place, tmp_path):
    found = line(*words(place, "classify", tmp_path / "out")[:-5], "--fresh", "--epochs", 1, "--seeds", 1)
    assert found["settings"]["fresh"] and found["settings"]["layer_decay"] == 1.0
    assert "no pretraining" in (tmp_path / "out/report.html").read_text()


MISTAKES = {
    "seeds": (("--seeds", 0), ("--seeds came as 0", "above 0")),
    "epochs": (("--epochs", -1), ("--epochs came as -1",)),
    "no file": (("--data", "nowhere.tsv"), ("there is no file 'nowhere.tsv'",)),
    "task": (("--task", "pairs"), ("names no text_pair", "--task pairs")),
    "numbers": (("--task", "regress"), ("no number ('class", "--task regress")),
    "columns": (("--columns", "text"), ("names no label",)),
    "length": (("--length", 999), ("--length 999 is beyond the 40",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_sentences(remask, place, tmp_path, mistake):
    flags, said = MISTAKES[mistake]
    refused(remask(*words(place, "classify", tmp_path / "out"), *flags), *said)
    assert not (tmp_path / "out").exists()


def test_an_occupied_place(remask, place, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/diary.txt").write_text("dear")
    refused(remask(*words(place, "classify", tmp_path / "out"), "--overwrite"), "not a fine-tuned model")
    assert (tmp_path / "out/diary.txt").read_text() == "dear"


def test_a_missing_header_says_what_to_type(remask, place, tmp_path):
    flags = [w for w in words(place, "classify", tmp_path / "out") if w not in ("--columns", "label,text")]
    refused(remask(*flags), "has no column 'text'", "type --columns")
