"""Export: a part of a run as a directory that plain transformers opens and that says what the trained pair says."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from remask.core.errors import SaveFailed
from remask.data import tokenizers
from remask.nets.convert import as_detector, smaller
from remask.nets.encoder import build
from remask.nets.pair import GENERATOR, Pair
from remask.train.checkpoint import write_net
from remask.train.export import export
from tests.cli import conftest
from tests.nets.test_checkpoints import BLOCKED, python
from tests.nets.tiny import gap, logits
from tests.train import electra, runs, sabotage
from tests.train.electra import restored, start, undisturbed
from tests.train.runs import refused

remask, lines, line = conftest.remask, conftest.lines, conftest.line
PARTS = ("discriminator", "generator")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scores(net, tokens):
    with torch.no_grad():
        return net.scores(net.hidden(tokens).flatten(0, 1)).view(tokens.shape)


def some_text(rows=2, length=20):
    """Ids of bytes, [rows, length]."""
    return torch.randint(40, 120, (rows, length), generator=torch.Generator().manual_seed(0))


# ---- what it says ----------------------------------------------------------------------------------------------------

OPEN = (
    BLOCKED
    + """
import json, torch
from pathlib import Path
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, AutoTokenizer
folder, found = Path(sys.argv[1]), {}
want = torch.load(folder / "expected.pt", weights_only=True)
for part, auto in (("discriminator", AutoModelForTokenClassification), ("generator", AutoModelForMaskedLM)):
    model, report = auto.from_pretrained(folder / part, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    with torch.no_grad():
        said = model.eval()(input_ids=want["tokens"]).logits
    found[part] = float((said.view(want[part].shape) - want[part]).abs().max())
    found[part + " ids"] = AutoTokenizer.from_pretrained(folder / part)("A mask.", add_special_tokens=False).input_ids
print(json.dumps(found))
"""
)


@pytest.mark.slow
def test_both_parts_say_elsewhere_what_the_trained_pair_says(line, tmp_path):
    """A fresh process, without remask, against the raw weights that training would go on from."""
    run, tokens = undisturbed("gdes"), some_text()
    for part in PARTS:
        out = tmp_path / part
        found = line("export", run, "--part", part, "--out", out)
        kind = {"discriminator": "ModernBertForTokenClassification", "generator": "ModernBertForMaskedLM"}[part]
        assert found == {"out": str(out), "part": part, "class": kind}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
        assert not (out / "remask.json").exists()
        assert not (out / GENERATOR).exists()
        assert "auto_map" not in json.loads((out / "config.json").read_text())
    pair = restored(run)
    assert pair.discriminator.model.get_input_embeddings().delta.abs().max() > 1e-4  # it has learnt a difference
    want = {"tokens": tokens, "discriminator": scores(pair.discriminator, tokens)}
    want["generator"] = logits(pair.generator, tokens)
    torch.save(want, tmp_path / "expected.pt")
    done = python(OPEN, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["discriminator"] < 1e-5
    assert found["generator"] < 1e-5 * float(want["generator"].abs().max().clamp(min=1))
    assert found["discriminator ids"] == found["generator ids"] == [byte + 4 for byte in b"A mask."]


@pytest.mark.parametrize("part", PARTS)
def test_exported_weights_are_those_of_the_run(part, remask, tmp_path):
    run = undisturbed("bert")
    done = remask("export", run, "--part", part, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    kind = "BertForTokenClassification" if part == "discriminator" else "BertForMaskedLM"
    said = " ".join((done.out + done.err).split())
    assert f"is a {kind}" in said
    assert f"transformers.{kind}.from_pretrained(" in said
    ours = load_file((run if part == "discriminator" else run / GENERATOR) / "model.safetensors")
    theirs = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_part_is_the_discriminator_unless_one_says_so(line, tmp_path):
    assert line("export", start("electra"), "--out", tmp_path / "out")["class"] == "ElectraForPreTraining"
    again = line("export", tmp_path / "out", "--out", tmp_path / "again")  # what was exported can be exported
    assert again["class"] == "ElectraForPreTraining"
    assert files(tmp_path / "again") == files(tmp_path / "out")
    assert line("export", start("masked"), "--out", tmp_path / "third")["class"] == "BertForMaskedLM"


def test_in_python(tmp_path):
    out = export(start("detector"), "discriminator", str(tmp_path / "deep" / "out"))
    assert out == tmp_path / "deep" / "out"
    assert (
        gap(scores(electra.open_trunk(out), some_text()), scores(electra.open_trunk(start("detector")), some_text()))
        == 0
    )


# ---- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_what_is_there_stays(kind, remask, tmp_path):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "thesis.tex").write_text("mine")
    before = files(tmp_path)
    refused(remask("export", start("masked"), "--out", out), "is there already: type another --out")
    assert files(tmp_path) == before
    assert out.exists()


def test_what_lies_beside_stays(remask, tmp_path):
    """Whatever name export gives to what is not finished."""
    for name in ("out.part", "out.tmp", ".out", "out.part/deep"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "mine.txt").write_text("mine")
    before = files(tmp_path)
    assert remask("export", start("masked"), "--out", tmp_path / "out").status == 0
    assert files(tmp_path).items() > before.items()


@pytest.mark.parametrize("part", PARTS)
def test_directional_heads_cannot_be_exported(part, remask, tmp_path):
    tokenizer = tokenizers.byte_tokenizer()
    net = build("tiny", tokenizers.alphabet(tokenizer), 16, directional_heads=True)
    write_net(tmp_path / "run", Pair(smaller(net, 0.25, 0.25, 1), as_detector(net, 2)), tokenizer, {})
    done = remask("export", tmp_path / "run", "--part", part, "--out", tmp_path / "out")
    refused(done, "has directional heads, which transformers cannot express", "--no-directional-heads")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_run_without_a_generator(remask, tmp_path):
    done = remask("export", start("masked"), "--part", "generator", "--out", tmp_path / "out")
    refused(done, "has no generator: only runs of remask train electra do", "--part discriminator")
    done = remask("export", start("masked"), "--part", "encoder", "--out", tmp_path / "out")
    refused(done, "there is no part 'encoder': type --part discriminator|generator")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["bare", "classifier", "tagger"])
def test_a_directory_without_a_head_of_ours(kind, remask, tmp_path):
    refused(remask("export", start(kind), "--out", tmp_path / "out"), "lacks weights")
    assert not list(tmp_path.iterdir())


def test_no_directory_and_no_tokenizer(remask, tmp_path):
    refused(remask("export", tmp_path / "nowhere", "--out", tmp_path / "out"), "there is no checkpoint directory")
    electra.write("masked", tmp_path / "model")
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    refused(remask("export", tmp_path / "model", "--out", tmp_path / "out"), "no tokenizer")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_where_nothing_can_be_written(remask, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = remask("export", start("masked"), "--out", tmp_path / "file" / "out")
    refused(done, "Not a directory", "type another --out")
    assert "--resume" not in done.err


# ---- whole or not at all ---------------------------------------------------------------------------------------------


class Stop:
    """Instead of a function of somebody else's: what comes in the middle of writing."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error


@pytest.mark.parametrize("where", ["weights", "rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["stop", "full"])
def test_an_interrupted_export_leaves_nothing(where, error, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        if where == "weights":
            patched.setattr("safetensors.torch.serialize_file", Stop(error))
        else:
            patched.setattr(os, "replace", Stop(error))
        with pytest.raises(SaveFailed if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            export(start("masked"), "discriminator", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
        assert "--resume" not in str(caught.value)
    assert export(start("masked"), "discriminator", tmp_path / "out").is_dir()


def killed(count):
    sabotage.in_weights(count)


def test_a_killed_export_is_no_directory_and_the_next_one_is_whole(tmp_path):
    from functools import partial

    out = tmp_path / "out"
    words = ["export", str(start("masked")), "--out", str(out), "--json"]
    assert runs.command(*words, before=partial(killed, 1)).status == -signal.SIGKILL
    assert not out.exists()
    runs.well(runs.command(*words))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    ours, theirs = load_file(start("masked") / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
