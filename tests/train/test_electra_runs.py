"""ELECTRA's runs: killed and resumed they end bit for bit the same; what they start from, and what they leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, BertForMaskedLM

import remask
from remask.core.errors import BadCheckpoint
from remask.data import tokenizers
from remask.data.pack import pack
from remask.data.text import read
from remask.nets.pair import GENERATOR, RAW
from remask.objectives.electra import ELECTRA
from remask.train import checkpoint
from remask.train.directory import OURS, claim
from remask.train.weighing import judge
from tests.train import runs, sabotage
from tests.train.electra import FIGURES, facts, last, restored, train, undisturbed, weights
from tests.train.runs import LENGTH, SAVE, STEPS, held, history, well

# ---- killed and resumed ----------------------------------------------------------------------------------------------


def _partly(count, name):
    import safetensors.torch as library

    real = library.serialize_file

    def instead(tensors, path, **rest):
        real(tensors, path, **rest)
        sabotage.halve(path)
        sabotage.die()

    def fits(tensors, path):
        return str(path).endswith(name)

    library.serialize_file = sabotage._at(count, fits, real, instead)


def in_pair(count):
    """Dies with half of the raw weights of the count-th checkpoint written."""
    _partly(count, RAW)


def in_generator(count):
    """Dies with half of the count-th generator written."""
    _partly(count, f"{GENERATOR}/model.safetensors")


KILLS = {
    "before the middle": partial(sabotage.after_step, SAVE + 1),  # of two stages; the last checkpoint lies before it
    "after the middle": partial(sabotage.after_step, SAVE + 3),  # the last checkpoint lies before it
    "late": partial(sabotage.after_step, 2 * SAVE + 2),  # the last checkpoint lies after it
    "pair half written": partial(in_pair, 2),
    "generator half written": partial(in_generator, 2),
    "before the rename": partial(sabotage.before_rename, STEPS // SAVE),
    "published generator half written": partial(in_generator, STEPS // SAVE + 1),
}
SOME = [
    ("gdes", "late"),
    ("gdes", "pair half written"),
    ("gdes", "before the rename"),
    ("bert", "before the middle"),
    ("bert", "generator half written"),
    ("bert", "published generator half written"),
    ("average", "late"),
    ("all-tokens", "after the middle"),
    ("two-stage", "before the middle"),
    ("two-stage", "after the middle"),
    ("two-stage", "late"),
    ("falling", "after the middle"),
]
FAST = {("bert", "before the middle")}


def same_end(run, name):
    """Every weight, bit for bit, and every figure."""
    whole = undisturbed(name)
    ours, theirs = weights(run), weights(whole)
    assert ours.keys() == theirs.keys()
    assert {part for part in ours if ours[part] != theirs[part]} == set()
    a, b = (facts(place) for place in (run, whole))
    assert json.dumps(a["metrics"]) == json.dumps(b["metrics"])  # nan is nan
    assert (a["step"], a["tokens"]) == (b["step"], b["tokens"]) == (STEPS, b["tokens"])
    assert not (run / checkpoint.STAGING).exists()
    curves = [{p["step"]: json.dumps({**p, "seconds": 0}) for p in history(r) if "loss" not in p} for r in (run, whole)]
    assert curves[0] == {**curves[0], **curves[1]}  # one that was interrupted has a point more


@pytest.mark.parametrize(
    ("name", "kill"),
    [pytest.param(*pair, marks=[] if pair in FAST else pytest.mark.slow) for pair in SOME],
)
def test_killed_and_resumed(name, kill, tmp_path):
    run = tmp_path / "run"
    assert train(run, name, before=KILLS[kill]).status == -signal.SIGKILL
    newest = checkpoint.newest(run)
    assert newest is not None and checkpoint.sound(newest)
    assert (newest / RAW).is_file() == (name != "falling")
    well(train(run, name, "--resume"))
    same_end(run, name)


@pytest.mark.parametrize("name", ["bert", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gdes", "two-stage"))])
def test_ctrl_c_saves_and_resuming_ends_the_same(name, tmp_path):
    """A checkpoint where the undisturbed run has none: what is drawn afterwards must not depend on that."""
    run = tmp_path / "run"
    done = well(train(run, name, before=partial(sabotage.after_step, SAVE + 2, signal.SIGINT)))
    assert done.json["step"] == SAVE + 3
    assert {"detection_nats", "mlm_nats"} <= set(done.json)
    assert set(weights(run)) == {"discriminator", "generator"}  # no last checkpoint yet
    well(train(run, name, "--resume"))
    same_end(run, name)


@pytest.mark.slow
def test_the_two_stages_are_what_they_are():
    """The discriminator waits, begins as the generator, and then learns alone."""
    run = undisturbed("two-stage")
    before, after = (load_file(run / "checkpoints" / f"checkpoint-{n}" / RAW) for n in (STEPS - SAVE, STEPS))
    assert int(before["stage"]) == int(after["stage"]) == 1
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert {name for name in after if name.startswith("generator.")} <= same  # it learns no more
    moved = {name for name in after if name not in same}
    assert any("attention" in name for name in moved)
    assert all(name.startswith("discriminator.") for name in moved)


def test_a_checkpoint_without_its_raw_weights_is_never_picked(tmp_path):
    shutil.copytree(undisturbed("bert") / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / f"checkpoint-{STEPS}"
    assert checkpoint.newest(tmp_path) == newest
    for spoil in (sabotage.halve, os.unlink):
        spoil(newest / RAW)
        assert checkpoint.newest(tmp_path).name == f"checkpoint-{STEPS - SAVE}"


# ---- what is left ----------------------------------------------------------------------------------------------------

FIGURES |= {"precision_of_replaced", "share_replaced"}


@pytest.mark.parametrize("name", ["bert", "gdes"])
def test_figures_in_the_facts_and_on_the_curve(name):
    run = undisturbed(name)
    told = facts(run)["metrics"]
    assert set(told) == FIGURES
    points = [p for p in history(run) if "detection_nats" in p]
    assert [p["step"] for p in points] == [STEPS // 2, STEPS]
    assert set(points[-1]) == {"step", "tokens", "seconds", *FIGURES, *(f"{name}_stderr" for name in FIGURES)}
    assert points[-1]["mlm_nats"] == told["mlm_nats"]["value"]
    assert 0 < told["detection_nats"]["value"] < 2
    assert 0 < told["share_replaced"]["value"] <= 0.15 + 1 / LENGTH
    rows = pack(tokenize(), LENGTH, 2)
    assert told["share_replaced"]["n"] == rows.tokens.numel()


def tokenize():
    return tokenizers.encode(tokenizers.byte_tokenizer(), [d.text for d in read([str(held())])])


def test_the_published_figures_are_those_of_the_raw_weights():
    run = undisturbed("bert")
    tokenizer, pair = tokenizers.load(str(run)), restored(run)
    alphabet = tokenizers.alphabet(tokenizer, pair.vocabulary)
    rows = pack(tokenize(), LENGTH, alphabet.end)
    objective = ELECTRA(**facts(run)["recipe"]["fields"])
    found = judge(objective, pair, alphabet, rows, draws=1, seed=0)
    for name, told in facts(run)["metrics"].items():
        assert found[name].value == pytest.approx(told["value"], rel=1e-5, nan_ok=True), name
        assert found[name].n == told["n"]


def test_a_run_is_a_discriminator_and_holds_a_generator():
    run = undisturbed("bert")
    assert type(AutoModelForTokenClassification.from_pretrained(run)).__name__ == "BertForTokenClassification"
    assert type(AutoModelForMaskedLM.from_pretrained(run / GENERATOR)) is BertForMaskedLM
    generator = remask.load(run / GENERATOR)
    assert generator.tokenizer.get_vocab() == tokenizers.byte_tokenizer().get_vocab()
    assert generator.conditional().alphabet.mask == generator.alphabet.mask
    with pytest.raises(BadCheckpoint, match=r"generator does, type .*/generator"):
        remask.load(run)
    assert not (run / RAW).exists()  # only what goes on needs it
    assert (last(run) / RAW).is_file()


def test_everything_that_a_run_writes_is_known():
    run = undisturbed("bert")
    known = {path for pattern in OURS for path in run.glob(pattern)}
    left = [path for path in run.rglob("*") if path.is_file() and not known & {path, *path.parents}]
    assert left == []


def test_overwriting_takes_the_generator_and_nothing_that_is_not_ours(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("bert"), run)
    claim(run, {"objective": "mlm"}, resume=False, overwrite=True)
    assert {path.name for path in run.iterdir()} == {"recipe.json"}  # the empty folder, too
    shutil.copytree(undisturbed("bert"), run, dirs_exist_ok=True)
    mine = {"notes.md", "mine.safetensors", "model.bak", "deep/model.safetensors"}
    for name in mine:
        (run / GENERATOR / name).parent.mkdir(exist_ok=True)
        (run / GENERATOR / name).write_text("mine")
    claim(run, {"objective": "mlm"}, resume=False, overwrite=True)
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert left == {"recipe.json", *(f"{GENERATOR}/{name}" for name in mine)}


# ---- one batch in parts ----------------------------------------------------------------------------------------------

PLAIN = ("--no-bf16", "--optimizer", "adamw", "--share", "gdes")  # of a fresh net, which drops nothing out


def curve(run):
    return [{name: v for name, v in point.items() if "seconds" not in name} for point in history(run)]


def same_curve(a, b):
    for one, two in zip(curve(a), curve(b), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if "stderr" not in name and name not in ("precision_of_replaced", "recall_of_replaced"):
                assert one[name] == pytest.approx(two[name], abs=1e-4, nan_ok=True), name


@pytest.fixture(scope="module")
def one():
    """One process with the whole batch."""
    run = runs.folder() / "electra-one"
    well(runs.train(run, *PLAIN, "--batch", "8", objective="electra"))
    return run


@pytest.mark.slow
def test_two_parts_are_one_with_the_whole_batch(one, tmp_path):
    run = tmp_path / "run"
    well(runs.train(run, *PLAIN, "--batch", "4", "--accumulate", "2", objective="electra"))
    same_curve(run, one)


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(one, tmp_path):
    run = tmp_path / "run"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += ["-m", "remask.cli", *runs.flags(run, *PLAIN, "--batch", "4", objective="electra")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=runs.PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert facts(run)["processes"] == 2
    same_curve(run, one)
    assert facts(run)["tokens"] == facts(one)["tokens"] == STEPS * 8 * LENGTH


@pytest.mark.slow
def test_another_batch_would_show(one, tmp_path):
    """The planted twin of the two above."""
    run = tmp_path / "run"
    well(runs.train(run, *PLAIN, "--batch", "8", "--seed", "1", objective="electra"))
    with pytest.raises(AssertionError):
        same_curve(run, one)
