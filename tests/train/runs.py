"""Tiny runs: a text, a trained checkpoint, and the real command in processes of its own, which may be killed.

Importing torch and the Trainer takes seconds, so processes are forked from one server that has imported them (and has
done nothing else). Everything in a child is real: its files, its signals, its limits.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from remask.train.trainer import bfloat16_here

WORDS = "a mask token statement returns value if else while loop import class object list string index error".split()  # noqa: SIM905
STEPS, SAVE = 12, 4
MUON = ("--bf16" if bfloat16_here(torch.device("cpu")) else "--no-bf16",)
ADAMW = ("--optimizer", "adamw", "--accumulate", "2", "--ema", "0.9", "--no-bf16")
OPENING = ("--causal-first", "0.2", "--open-heads", "--open-from", "0.25", "--open-until", "0.75", "--no-bf16")
RECIPES = {"muon": MUON, "adamw": ADAMW, "opening": OPENING}
LENGTH = 32
WARM = ["remask.train.trainer", "remask.train.run", "remask.cli.train", "remask.cli.show"]
WARM += ["tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.record_writer"]
PATIENCE = 400  # seconds; a child takes two to ten
Sabotage = Callable[[], None]


def prose(paragraphs: int, seed: int) -> str:
    """Sentences of random words."""
    chance = random.Random(seed)
    texts = []
    for _ in range(paragraphs):
        lines = (" ".join(chance.choices(WORDS, k=chance.randint(6, 14))) for _ in range(chance.randint(3, 6)))
        texts.append(" ".join(f"{line.capitalize()}." for line in lines))
    return "\n\n".join(texts) + "\n"


@cache
def folder() -> Path:
    """A place for what many tests share."""
    path = Path(tempfile.mkdtemp(prefix="remask-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def data() -> Path:
    """About 10 kB to train on."""
    path = folder() / "train.txt"
    path.write_text(prose(40, 0), encoding="utf-8")
    return path


@cache
def held() -> Path:
    """About 600 bytes to judge by."""
    path = folder() / "valid.txt"
    path.write_text(prose(2, 1), encoding="utf-8")
    return path


def flags(
    out: Path, *more: str, objective: str = "mdlm", steps: int | None = STEPS, tokenizer: str | None = "byte"
) -> list[str]:
    """The words of a small training; words in `more` come last and win."""
    size = "" if "--init" in more else "--net tiny"
    fixed = f"{size} --length {LENGTH} --batch 4 --seed 0 --evaluations 2 --save-steps {SAVE} --json"
    maybe = {"--steps": steps, "--tokenizer": tokenizer}
    given = [word for name, value in maybe.items() if value is not None for word in (name, str(value))]
    texts = ["--data", str(data()), "--valid", str(held())]
    return ["train", objective, *texts, "--out", str(out), *fixed.split(), *given, *more]


class Done(NamedTuple):
    """How a command ended: its exit status (negative: the signal that killed it) and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its only line of output."""
        return json.loads(self.out)


class Child:
    """A command in a process of its own."""

    def __init__(self, words: Sequence[str], before: Sabotage | None = None):
        pipes = [_forks().Pipe(duplex=False) for _ in range(2)]  # and no files, which a small disk would cut short
        self.process = _forks().Process(target=_child, args=(list(words), *(ours for _, ours in pipes), before))
        self.process.start()
        for _, ours in pipes:
            ours.close()
        self.said = [_Reader(theirs) for theirs, _ in pipes]

    def wait(self) -> Done:
        """Its end."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {PATIENCE} s: {self.said[1].text()}")
        return Done(self.process.exitcode, *(reader.text() for reader in self.said))


class _Reader(threading.Thread):
    """Collects what comes out of a pipe."""

    def __init__(self, pipe: Any):
        super().__init__(daemon=True)
        self.pipe, self.parts = pipe, []
        self.start()

    def run(self) -> None:
        while part := os.read(self.pipe.fileno(), 1 << 16):
            self.parts.append(part)
        self.pipe.close()

    def text(self) -> str:
        self.join(PATIENCE)
        return b"".join(self.parts).decode()


@cache
def _forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)
    return context


def _child(words: list[str], out: Any, err: Any, before: Sabotage | None) -> None:
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    faulthandler.dump_traceback_later(PATIENCE / 2)  # where it hangs, if it does
    torch.set_num_threads(1)
    from remask import cli

    if before is not None:
        before()
    sys.exit(cli.main(words))


def command(*words: str, before: Sabotage | None = None) -> Done:
    """Run a command in a process of its own; `before` prepares that process, for example to die."""
    return Child(words, before).wait()


def train(out: Path, *more: str, before: Sabotage | None = None, **rest: Any) -> Done:
    """A small training in a process of its own."""
    return command(*flags(out, *more, **rest), before=before)


def well(done: Done) -> Done:
    """The same, if it ended well."""
    assert done.status == 0, done.err
    return done


def weights(run: Path) -> bytes:
    """The published weights, byte for byte."""
    return (run / "model.safetensors").read_bytes()


def history(run: Path) -> list[dict[str, Any]]:
    """The points of the curve."""
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def checkpoints(run: Path) -> list[int]:
    """The steps that have a training checkpoint."""
    return sorted(int(path.name.split("-")[1]) for path in (run / "checkpoints").iterdir())


def refused(done: Done, *said: str) -> None:
    """It was the user's mistake: status 2, one sentence on standard error that holds these words, nothing else."""
    assert done.status == 2, (done.status, done.err)
    assert "Traceback" not in done.err
    sentences = [line for line in done.err.splitlines() if line.startswith("remask: ")]
    assert len(sentences) == 1, done.err
    assert done.err.rstrip().endswith(sentences[0]), done.err
    assert sentences[0].endswith((".", "converted.txt")), sentences[0]
    for words in said:
        assert words in sentences[0], sentences[0]


@cache
def undisturbed(recipe: str) -> Path:
    """A run that nothing happened to."""
    path = folder() / f"undisturbed-{recipe}"
    well(train(path, *RECIPES[recipe]))
    return path


def earlier(run: Path) -> Path:
    """The same run as if killed after its last but one checkpoint, before it published anything."""
    (run / "checkpoints").mkdir(parents=True)
    for name in ("recipe.json", "history.jsonl"):
        shutil.copy(undisturbed("muon") / name, run / name)
    name = f"checkpoints/checkpoint-{STEPS - SAVE}"
    shutil.copytree(undisturbed("muon") / name, run / name)
    return run


@cache
def trained() -> Path:
    """A masked net with directional heads after a few steps, BPE tokens."""
    path = folder() / "trained"
    well(train(path, "--tokenizer", "bpe:300"))
    return path


@cache
def causal() -> Path:
    """An autoregressive plain ModernBERT decoder after a few steps, bytes."""
    path = folder() / "causal"
    well(train(path, "--no-directional-heads", objective="autoregressive"))
    return path
