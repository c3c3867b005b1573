"""A checkpoint is written whole or not at all, and training that goes wrong leaves the last good one as it was."""

import json
import os
import resource
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from remask.core.errors import BadInput, SaveFailed
from remask.core.metric import Estimate
from remask.data.tokenizers import byte_tokenizer
from remask.nets.hf import HuggingFaceNet
from remask.train import checkpoint
from remask.train.history import History, read
from tests.nets.tiny import MAKE
from tests.train import runs, sabotage
from tests.train.runs import MUON, SAVE, STEPS, refused, train, undisturbed, weights, well

LAST = STEPS - SAVE  # the step of the good checkpoint that the fixture `earlier` holds
SENTENCE = "type the same command with --resume"


def files(folder):
    """Every file below a folder, byte for byte."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def good(run):
    return files(run / "checkpoints" / f"checkpoint-{LAST}")


def sizes():
    """Bytes of the weights and of the optimizer's state."""
    folder = undisturbed("muon") / "checkpoints" / f"checkpoint-{STEPS}"
    return [(folder / name).stat().st_size for name in (checkpoint.WEIGHTS, "optimizer.pt")]


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["weights", "json", "nothing"])
def test_a_full_disk_costs_nothing(earlier, room):
    small, large = sizes()
    assert small + 1024 < large  # so that a disk can take the weights and not the optimizer's state
    size = {"weights": small + 1024, "json": 1 << 14, "nothing": 100}[room]
    before = good(earlier)
    done = train(earlier, *MUON, "--resume", before=partial(sabotage.small_disk, size))
    refused(done, SENTENCE, "last good checkpoint is untouched", str(earlier))
    assert good(earlier) == before
    assert checkpoint.newest(earlier).name == f"checkpoint-{LAST}"
    assert not (earlier / checkpoint.STAGING).exists()
    well(train(earlier, *MUON, "--resume"))
    assert weights(earlier) == weights(undisturbed("muon"))


def test_a_small_disk_really_is_too_small(tmp_path):
    """The planted twin: the limit bites where it should, and only there."""
    path = tmp_path / "file"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        path.write_bytes(b"x" * 100)
        with pytest.raises(OSError, match="File too large"):
            path.write_bytes(b"x" * 101)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.slow
def test_a_full_disk_at_the_last_moment(earlier):
    """Training ends, and then the final weights find no room."""
    shutil.rmtree(earlier)
    shutil.copytree(undisturbed("muon"), earlier)
    (earlier / "model.safetensors").unlink()
    refused(train(earlier, *MUON, "--resume", before=partial(sabotage.small_disk, 1 << 14)), SENTENCE)
    assert checkpoint.newest(earlier).name == f"checkpoint-{STEPS}"
    well(train(earlier, *MUON, "--resume"))
    assert weights(earlier) == weights(undisturbed("muon"))


@pytest.mark.slow
def test_a_full_disk_before_anything_is_saved(tmp_path):
    run = tmp_path / "run"
    refused(train(run, *MUON, before=partial(sabotage.small_disk, 1 << 14)), SENTENCE)
    well(train(run, *MUON, "--resume"))
    assert weights(run) == weights(undisturbed("muon"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError("[enforce fail] file write failed\nand more"), "file write failed)"),
        (Exception("No space left on device (os error 28)"), "os error 28"),
        (checkpoint.SafetensorError("I/O error"), "I/O error"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_what_a_full_disk_raises_is_one_sentence(tmp_path, error, said):
    with pytest.raises(SaveFailed) as found, checkpoint.saving(tmp_path):
        raise error
    assert said in str(found.value)
    assert SENTENCE in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), BadInput("x"), SaveFailed("x"), KeyboardInterrupt()])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as found, checkpoint.saving(tmp_path):
        raise error
    assert found.value is error


# ---- numbers that are not finite -------------------------------------------------------------------------------------


def test_divergence_stops_and_a_lower_rate_goes_on(earlier):
    before = good(earlier)
    done = train(earlier, *MUON, "--resume", "--learning-rate", "1e30", "--clip", "0")
    refused(done, "loss became nan", "lower --learning-rate", "--resume")
    assert good(earlier) == before
    assert runs.checkpoints(earlier) == [LAST]
    assert all(torch.isfinite(x).all() for x in load_file(checkpoint.newest(earlier) / checkpoint.WEIGHTS).values())
    well(train(earlier, *MUON, "--resume"))
    assert weights(earlier) == weights(undisturbed("muon"))


@pytest.mark.slow
def test_divergence_from_the_first_step(tmp_path):
    run = tmp_path / "run"
    rates = ["--optimizer", "adamw", "--learning-rate", "1e30", "--clip", "0", "--save-steps", "1"]
    refused(train(run, *rates), "step 2", "lower --learning-rate")
    assert runs.checkpoints(run) == [1]
    assert checkpoint.sound(checkpoint.newest(run))
    assert all(torch.isfinite(x).all() for x in load_file(checkpoint.newest(run) / checkpoint.WEIGHTS).values())


@pytest.mark.slow
def test_a_lower_rate_takes_effect(earlier):
    done = well(train(earlier, *MUON, "--resume", "--learning-rate", "1e-9", "--rest-learning-rate", "1e-9")).json
    facts = [json.loads((earlier / f"checkpoints/checkpoint-{n}/remask.json").read_text()) for n in (LAST, STEPS)]
    assert [f["step"] for f in facts] == [LAST, done["step"]]
    a, b = (load_file(earlier / f"checkpoints/checkpoint-{n}" / checkpoint.WEIGHTS) for n in (LAST, STEPS))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-6


# ---- publishing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nets():
    """Two nets that differ."""
    torch.manual_seed(0)
    return [HuggingFaceNet(MAKE["modernbert"]()) for _ in range(2)]


def test_publishing_replaces_a_checkpoint(tmp_path, nets):
    (tmp_path / "notes.txt").write_text("mine")
    for number, net in enumerate(nets):
        checkpoint.publish(tmp_path, net, byte_tokenizer(), {"number": number})
        assert json.loads((tmp_path / "remask.json").read_text()) == {"number": number}
        again = checkpoint.load_net(tmp_path)
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True)
        )
    assert not (tmp_path / checkpoint.STAGING).exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_publishing_that_fails_half_way_leaves_whole_files(tmp_path, nets, monkeypatch):
    sides = []
    for number, net in enumerate(nets):
        checkpoint.publish(tmp_path / str(number), net, byte_tokenizer(), {"number": number})
        sides.append(files(tmp_path / str(number)))
    real, turns = os.replace, iter([True, True, False])

    def fails(a, b):
        if not next(turns):
            raise OSError(28, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(SaveFailed, match="--resume"):
        checkpoint.publish(tmp_path / "0", nets[1], byte_tokenizer(), {"number": 1})
    found = files(tmp_path / "0")
    assert set(found) == set(sides[0])  # no staging left
    assert all(found[name] in (sides[0][name], sides[1][name]) for name in found)
    assert found[Path("remask.json")] == sides[0][Path("remask.json")]  # the facts come last


def test_publishing_checks_what_it_wrote(tmp_path, nets, monkeypatch):
    checkpoint.publish(tmp_path, nets[0], byte_tokenizer(), {"number": 0})
    before = files(tmp_path)
    import safetensors.torch

    real = safetensors.torch.serialize_file

    def loses_the_end(tensors, name, **rest):
        real(tensors, name, **rest)
        sabotage.halve(name)

    monkeypatch.setattr(safetensors.torch, "serialize_file", loses_the_end)
    with pytest.raises(SaveFailed, match="not whole"):
        checkpoint.publish(tmp_path, nets[1], byte_tokenizer(), {"number": 1})
    assert files(tmp_path) == before


# ---- the curve -------------------------------------------------------------------------------------------------------

METRICS = {"nats_per_token": Estimate(3.0, 0.1, "nats/token", 7)}


def test_history_forgets_what_came_after_and_a_line_cut_short(tmp_path):
    history = History(tmp_path, 0)
    for step in (10, 20, 30):
        history.add(step=step, tokens=step, seconds=1.0, loss=float(step))
        history.bound(step, step, 1.0, METRICS)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    assert [p["step"] for p in read(tmp_path)] == [10, 10, 20, 20, 30, 30]
    History(tmp_path, 20)
    assert [p["step"] for p in read(tmp_path)] == [10, 10, 20, 20]
    History(tmp_path, 0)
    assert read(tmp_path) == []


def test_a_bound_takes_the_place_of_one_of_the_same_step(tmp_path):
    history = History(tmp_path, 0)
    history.add(step=10, tokens=10, seconds=1.0, loss=5.0)
    history.bound(10, 10, 1.0, METRICS)
    history.bound(10, 10, 1.0, {"nats_per_token": Estimate(2.0, 0.1, "nats/token", 70)})
    assert [(p.get("loss"), p.get("nats_per_token")) for p in read(tmp_path)] == [(5.0, None), (None, 2.0)]
    assert not (tmp_path / "history.jsonl.part").exists()


def test_only_one_process_writes(tmp_path):
    history = History(tmp_path, 0, writes=False)
    history.add(step=1, tokens=1, seconds=1.0, loss=1.0)
    history.bound(1, 1, 1.0, METRICS)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_the_curve(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = History(tmp_path, 0)
    for step in (10, 20, 30):
        first.add(step=step, tokens=step, seconds=1.0, loss=step / 4)
    second = History(tmp_path, 20)  # resumed: what came after step 20 is void
    second.bound(25, 25, 1.0, METRICS)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "nats_per_token", "nats_per_token_stderr"}
    assert [(e.step, e.value) for e in board.Scalars("nats_per_token")] == [(25, 3.0)]
    assert [(e.step, e.value) for e in board.Scalars("loss")][:1] == [(10, 2.5)]


def test_a_full_disk_under_the_curve_is_one_sentence(tmp_path):
    history = History(tmp_path, 0)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, old[1]))
    try:
        with pytest.raises(SaveFailed, match="--resume"):
            history.add(step=1, tokens=1, seconds=1.0, loss=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
