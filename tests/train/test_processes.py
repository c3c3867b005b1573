"""Two processes with half the batch each are one process with the whole batch. (On a CPU some launchers silently start
one process, so the number that ran is asserted.)"""

import os
import subprocess
import sys

import pytest

from remask.train import checkpoint
from tests.train import runs
from tests.train.runs import STEPS, checkpoints, history, train, well

pytestmark = pytest.mark.slow
FLAGS = ("--no-bf16", "--optimizer", "adamw", "--weighting", "flat")


def launch(run, *more):
    """Under torchrun, with two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += ["-m", "remask.cli", *runs.flags(run, *FLAGS, *more)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=runs.PATIENCE, check=False)


@pytest.fixture(scope="module")
def one():
    """One process with the whole batch."""
    run = runs.folder() / "one-process"
    well(train(run, *FLAGS, "--batch", "8"))
    return run


@pytest.fixture(scope="module")
def two():
    run = runs.folder() / "two-processes"
    done = launch(run, "--batch", "4")
    assert done.returncode == 0, done.stderr
    return run, done


def test_two_processes_ran(two):
    run, done = two
    facts = checkpoint.load(run).facts
    assert facts["processes"] == 2
    assert len(done.stdout.strip().splitlines()) == 1  # one of them speaks
    last = run / "checkpoints" / f"checkpoint-{STEPS}"
    assert sorted(path.name for path in last.glob("rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    assert checkpoints(run) == [STEPS - runs.SAVE, STEPS]
    assert not (run / checkpoint.STAGING).exists()


def test_two_processes_are_one_with_the_whole_batch(one, two):
    run, _ = two
    ours, theirs = history(run), history(one)
    assert [(p["step"], p["tokens"]) for p in ours] == [(p["step"], p["tokens"]) for p in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "nats_per_token"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-4)
    assert sum("loss" in p for p in ours) == 2
    facts = [checkpoint.load(path).facts for path in (run, one)]
    assert facts[0]["tokens"] == facts[1]["tokens"] == STEPS * 8 * runs.LENGTH


def test_two_parts_are_one_with_the_whole_batch(one, tmp_path):
    """The loop itself accumulates exactly, too."""
    run = tmp_path / "run"
    well(train(run, *FLAGS, "--batch", "4", "--accumulate", "2"))
    for a, b in zip(history(run), history(one), strict=True):
        assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
        for name in ("loss", "nats_per_token"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-4)


def test_two_processes_resume(two, one, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(two[0], run)
    shutil.rmtree(run / "checkpoints" / f"checkpoint-{STEPS}")
    before = runs.weights(run)
    (run / "model.safetensors").unlink()
    done = launch(run, "--batch", "4", "--resume")
    assert done.returncode == 0, done.stderr
    assert runs.weights(run) == before
    refused = train(run, *FLAGS, "--batch", "4", "--resume")
    runs.refused(refused, "started with 2 processes and now 1 came")
