"""The words: quick help, one JSON object a line, errors that are sentences, an exit status for each end."""

import json
import os
import resource
import subprocess
import sys

import pytest

from remask.bench import BENCHES
from remask.cli.flags import describe, fields
from remask.cli.listing import TABLES
from remask.cli.words import WORDS, emit, peek
from remask.decoders import DECODERS
from remask.decoders.adapt import ADAPT
from remask.lab import EXPERIMENTS
from remask.objectives import OBJECTIVES
from remask.samplers import SAMPLERS
from tests.train.runs import refused

HELPS = [
    ["--help"],
    ["-h"],
    ["help"],
    [],
    *([word, "--help"] for word in WORDS),
    *(["train", name, "--help"] for name in OBJECTIVES),
    *(["sample", "--sampler", name, "--help"] for name in SAMPLERS),
    *(["decode", "--decoder", name, "--help"] for name in DECODERS),
    *(["evaluate", "--adapt", name, "--help"] for name in ADAPT),
    ["train", "attribute", "--help"],
    *(["bench", name, "--help"] for name in BENCHES),
    *(["lab", name, "--help"] for name in EXPERIMENTS),
]
WATCHED = """
import sys
from remask.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
heavy = [name for name in ("torch", "transformers", "datasets", "tensorboard") if name in sys.modules]
sys.exit(f"imported {heavy}" if heavy else status)
"""


def fresh(*words):
    """A fresh process, and the processor seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_is_quick_and_light(words):
    done, seconds = fresh("-c", WATCHED, *words)
    assert done.returncode == 0, done.stderr
    assert "usage: remask" in done.stdout
    assert seconds < 1


def test_a_real_process_and_the_module_entry():
    done, seconds = fresh("-m", "remask.cli", "list", "--json")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == sum(map(len, TABLES.values()))
    assert seconds < 1
    done, _ = fresh("-m", "remask.cli", "nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("remask: there is no command named 'nonsense'")


def test_the_watch_would_notice_torch():
    """The planted twin."""
    done, _ = fresh("-c", WATCHED.replace("import sys\n", "import sys, torch\n", 1), "--help")
    assert done.returncode == 1
    assert "imported ['torch'" in done.stderr


def test_every_word_is_in_the_overview(remask):
    text = remask("--help").out
    assert all(f"  {word} " in text for word in WORDS)
    assert remask().out == text


def test_version(remask):
    import remask as package

    assert remask("--version").out.strip() == package.__version__


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_field_is_a_flag_with_a_help(remask, objective):
    text = remask("train", objective, "--help").out
    places = [
        "remask.train.recipe:Text",
        "remask.train.recipe:Start",
        "remask.train.settings:Training",
        OBJECTIVES[objective],
    ]
    for place in places:
        for field in fields(place):
            assert field.help, field.name
            assert f"--{field.name.replace('_', '-')}" in text


def test_a_closed_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "remask.cli", "list", "--json"], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


# ---- list ------------------------------------------------------------------------------------------------------------


def test_list_names_every_row_with_its_law_and_source(lines, remask):
    found = lines("list")
    assert {(row["kind"], row["name"]) for row in found} == {(kind, n) for kind, table in TABLES.items() for n in table}
    for row in found:
        assert all(row[key] for key in ("summary", "law", "source")), row
        assert any(year in row["source"] for year in map(str, range(1948, 2030))), row
    shown = remask("list").out
    assert all(row["name"] in shown for row in found)
    assert all(f"{kind}s" in shown for kind in TABLES)


def test_describe_reads_the_source():
    mdlm = describe(OBJECTIVES["mdlm"])
    assert mdlm.law == "upper bound"
    assert "Sahoo et al. 2024" in mdlm.source
    assert describe(SAMPLERS["first_hitting"]).law == "exact"
    assert describe(SAMPLERS["ancestral"]).law == "limit"


# ---- small parts -----------------------------------------------------------------------------------------------------


def test_json_has_no_nan(capsys):
    emit({"a": float("nan"), "b": [1.5, float("inf"), {"c": "über"}], "d": (True, None, 3)})
    said = capsys.readouterr().out
    assert said == '{"a": null, "b": [1.5, null, {"c": "über"}], "d": [true, null, 3]}\n'
    assert json.loads(said)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--sampler", "x"], "x"),
        (["a", "--sampler=y", "b"], "y"),
        (["--sampler"], "none"),
        ([], "none"),
        (["--sampler", "--json"], "--json"),
    ],
)
def test_peek(words, found):
    assert peek(words, "--sampler", "none") == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demos"], ["no command named 'demos'", "did you mean 'demo'?", *WORDS]),
        (["train"], ["OBJECTIVE", "remask train --help"]),
        (["train", "mldm"], ["no objective named 'mldm'", "did you mean 'mlm'?", *OBJECTIVES]),
        (["train", "mdlm"], ["--out", "remask train mdlm --help"]),
        (["train", "mdlm", "--out", "x", "--step", "3"], ["--step", "--help"]),
        (
            ["train", "mdlm", "--out", "x", "--steps", "many"],
            ["--steps", "'many' came where a whole number was wanted"],
        ),
        (["train", "mdlm", "--out", "x", "--minutes", "1,5"], ["--minutes", "'1,5' came where a number was wanted"]),
        (["sample", "x", "y"], ["unrecognized arguments: y", "remask sample --help"]),
        (["sample", "x", "--sampler", "gibs"], ["no sampler named 'gibs'", *SAMPLERS]),
        (["fill", "x"], ["TEXT"]),
        (["score", "x"], ["--data"]),
        (["evaluate", "x"], ["--data"]),
        (["report"], ["DIR"]),
        (["bench"], ["NAME"]),
        (["bench", "nothing"], ["no bench", *BENCHES]),
        (["list", "--jsn"], ["--jsn"]),
        (["demo", "--minutes", "soon"], ["'soon' came where a number was wanted"]),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_a_sentence(remask, words, said):
    refused(remask(*words), *said)
