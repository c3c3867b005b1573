"""Killed anywhere and resumed, a run ends with the weights of one that was left alone, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from remask.core.errors import SaveFailed
from remask.train import checkpoint
from tests.train import runs, sabotage
from tests.train.runs import MUON, RECIPES, SAVE, STEPS, history, train, undisturbed, weights, well

KILLS = {
    "after a step": partial(sabotage.after_step, SAVE + 2),
    "weights half written": partial(sabotage.in_weights, 2),
    "optimizer half written": partial(sabotage.in_state, 2),
    "rng half written": partial(sabotage.in_state, 2, "rng_state.pth"),
    "before the rename": partial(sabotage.before_rename, 2),
    "before the last rename": partial(sabotage.before_rename, STEPS // SAVE),
    "published weights half written": partial(sabotage.in_weights, STEPS // SAVE + 1),
    "published weights in place": sabotage.in_publishing,
    "deleting an old checkpoint": sabotage.in_pruning,
}
FAST = {("muon", "after a step"), ("muon", "optimizer half written")}


def points(run):
    """The curve without the clock: nothing twice."""
    found = [
        ({name: v for name, v in p.items() if name not in ("seconds", "loss")}, p.get("loss")) for p in history(run)
    ]
    keys = [(p["step"], loss is None) for p, loss in found]
    assert len(set(keys)) == len(keys), keys
    return found


def same_end(run, recipe):
    whole = undisturbed(recipe)
    assert weights(run) == weights(whole)
    ours, theirs = checkpoint.load(run).facts, checkpoint.load(whole).facts
    assert ours["metrics"] == theirs["metrics"]
    assert (ours["step"], ours["tokens"]) == (theirs["step"], theirs["tokens"]) == (STEPS, theirs["tokens"])
    assert not (run / checkpoint.STAGING).exists()
    bounds = [[p for p, loss in points(r) if loss is None] for r in (run, whole)]
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize(
    ("recipe", "kill"),
    [
        pytest.param(recipe, kill, marks=[] if (recipe, kill) in FAST else pytest.mark.slow)
        for recipe in RECIPES
        for kill in KILLS
    ],
)
def test_killed_and_resumed(recipe, kill, tmp_path):
    run = tmp_path / "run"
    assert train(run, *RECIPES[recipe], before=KILLS[kill]).status == -signal.SIGKILL
    newest = checkpoint.newest(run)
    assert newest is not None and checkpoint.sound(newest)
    done = well(train(run, *RECIPES[recipe], "--resume"))
    assert f"going on from {newest}".replace("\n", "") in done.err.replace("\n", "")
    same_end(run, recipe)


@pytest.mark.slow
def test_two_runs_are_the_same(tmp_path):
    well(train(tmp_path / "run", *MUON))
    assert weights(tmp_path / "run") == weights(undisturbed("muon"))
    assert points(tmp_path / "run") == points(undisturbed("muon"))


def test_resuming_with_rows_shifted_by_one_is_noticed(earlier):
    well(train(earlier, *MUON, "--resume", before=sabotage.shifted_order))
    assert weights(earlier) != weights(undisturbed("muon"))


def test_ctrl_c_saves_and_resuming_ends_the_same(tmp_path):
    run = tmp_path / "run"
    done = well(train(run, *MUON, before=partial(sabotage.after_step, SAVE + 2, signal.SIGINT)))
    assert done.json["step"] == SAVE + 3  # the step that was under way is finished
    assert runs.checkpoints(run)[-1] == SAVE + 3
    assert checkpoint.load(run).facts["step"] == SAVE + 3
    well(train(run, *MUON, "--resume"))
    assert weights(run) == weights(undisturbed("muon"))
    points(run)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(tmp_path):
    run = tmp_path / "run"
    train(run, *MUON, before=partial(sabotage.after_step, 2))
    assert checkpoint.newest(run) is None
    well(train(run, *MUON, "--resume"))
    same_end(run, "muon")


def test_a_finished_run_is_left_as_it_is(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("muon"), run)
    before = history(run)
    well(train(run, *MUON, "--resume"))
    same_end(run, "muon")
    assert [p | {"seconds": 0} for p in history(run)] == [p | {"seconds": 0} for p in before]


def test_a_run_can_be_made_longer(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed("muon"), run)
    done = well(train(run, *MUON, "--resume", steps=2 * STEPS)).json
    assert done["step"] == 2 * STEPS
    assert weights(run) != weights(
        undisturbed("muon")
    )  # the rate has not stayed at the 0 that the shorter run ended with
    points(run)


@pytest.mark.slow
def test_a_clock_goes_on_where_it_stopped(tmp_path):
    run, minutes = tmp_path / "run", 0.05
    words = [*MUON, "--minutes", str(minutes)]
    train(run, *words, steps=None, before=partial(sabotage.after_step, SAVE + 2))
    before = json.loads((checkpoint.newest(run) / "remask.json").read_text())["seconds"]
    done = well(train(run, *words, "--resume", steps=None)).json
    assert 0 < before < 60 * minutes <= done["seconds"] < 60 * minutes + 2
    assert done["step"] > SAVE + 2
    seconds = [p["seconds"] for p in history(run)]
    assert seconds == sorted(seconds)
    assert well(train(run, *words, "--resume", steps=None)).json["step"] == done["step"]  # the time is spent
    points(run)


@pytest.fixture
def copy(tmp_path):
    """A finished run whose checkpoints may be spoilt."""
    shutil.copytree(undisturbed("muon") / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", *checkpoint.STATE, "rng_state.pth"])
@pytest.mark.parametrize("spoil", [os.unlink, sabotage.halve], ids=["missing", "truncated"])
def test_a_partial_checkpoint_is_never_picked(copy, name, spoil):
    whole, partial_one = copy / "checkpoints" / f"checkpoint-{STEPS}", copy / "checkpoints" / "checkpoint-999"
    shutil.copytree(whole, partial_one)
    assert checkpoint.newest(copy) == partial_one  # whole so far
    spoil(partial_one / name)
    assert checkpoint.newest(copy) == whole


@pytest.mark.parametrize(
    "head", [b"\xff" * 8, b"\0" * 8, (40).to_bytes(8, "little") + b"[1, 2]", b"", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_rubbish_is_no_checkpoint(copy, head):
    path = copy / "checkpoints" / f"checkpoint-{STEPS}"
    (path / "model.safetensors").write_bytes(head)
    assert not checkpoint.sound(path)


def test_what_is_no_checkpoint_at_all_is_passed_over(copy):
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-1000", "notes.txt"):
        (copy / "checkpoints" / name).mkdir()
    assert checkpoint.newest(copy) == copy / "checkpoints" / f"checkpoint-{STEPS}"
    assert checkpoint.newest(copy / "nowhere") is None


def test_pruning_keeps_the_newest_whole_ones(copy):
    whole = copy / "checkpoints" / f"checkpoint-{STEPS}"
    for step in (1, 2, 3):
        shutil.copytree(whole, copy / "checkpoints" / f"checkpoint-{step}")
    for step in (998, 999):  # partial ones must not push good ones out
        (copy / "checkpoints" / f"checkpoint-{step}").mkdir()
    (copy / "checkpoints" / "checkpoint-mine").mkdir()
    checkpoint.prune(copy)
    left = {path.name for path in (copy / "checkpoints").iterdir()}
    assert left == {f"checkpoint-{n}" for n in (STEPS - SAVE, STEPS, 998, 999, "mine")}


def test_commit_refuses_what_is_not_whole(copy):
    staged, final = copy / "staged", copy / "checkpoints" / f"checkpoint-{STEPS}"
    shutil.copytree(final, staged)
    sabotage.halve(staged / "model.safetensors")
    with pytest.raises(SaveFailed, match="last good checkpoint is untouched"):
        checkpoint.commit(staged, final)
    assert checkpoint.sound(final)


@pytest.mark.slow
def test_a_fresh_process_killed_from_outside(tmp_path):
    run = tmp_path / "run"
    words = [sys.executable, "-m", "remask.cli", *runs.flags(run, *MUON)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (run / "checkpoints" / f"checkpoint-{SAVE}").is_dir():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*words, "--resume"], env=environment, check=True, capture_output=True)
    same_end(run, "muon")
