"""Timing whole optimizer steps of several ways to train, each in a process of its own, in turns.

An arm makes a module for a vocabulary, asks questions of random tokens, and gives a loss. A step is forward, backward,
clipping and fused AdamW; the figure is the median round; peak memory is the process's.
Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput, UnknownName
from remask.core.objective import Batch, Question
from remask.core.stream import Stream
from remask.nets import encoder

SMALLEST = 16  # ids of a vocabulary worth timing
POSITIVE = ("length", "batch", "seconds", "rounds")


class Arm(NamedTuple):
    """A way to train: make a module for a vocabulary, ask a batch, and the loss of a question under it."""

    what: str
    build: Callable[[Any, Alphabet], torch.nn.Module]
    ask: Callable[[Any, Batch, Stream], Question]
    loss: Callable[[Any, Question, Stream], Tensor]


def check(plan: Any) -> None:
    """Raise BadInput or UnknownName for a plan that cannot be run: net, vocabularies and the numbers above."""
    for came in plan.vocabularies:
        if not came.isdecimal() or int(came) < SMALLEST:
            raise BadInput(f"--vocabularies came with '{came}': type whole numbers from {SMALLEST} on, like 8192.")
    if plan.net not in encoder.SIZES:
        raise UnknownName("net", plan.net, encoder.SIZES)
    for name in POSITIVE:
        if not 0 < getattr(plan, name) < math.inf:
            raise BadInput(f"--{name} came as {getattr(plan, name)}: it must be above 0.")


def rows(plan: Any, module: str, arms: Mapping[str, Arm], baselines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One record for each vocabulary and arm, with ratios to the baselines of the same run.

    module: the one that holds `arms` as ARMS and the plan's class, which the child processes import.
    """
    for vocabulary in map(int, plan.vocabularies):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for _ in range(plan.rounds):
            for name in arms:
                runs[name].append(_child(module, type(plan).__name__, name, vocabulary, asdict(plan)))
        speed = {name: statistics.median(r["tokens_per_second"] for r in rs) for name, rs in runs.items()}
        memory = {name: statistics.median(r["peak_mb"] for r in rs) for name, rs in runs.items()}
        for name, arm in arms.items():
            yield {
                "vocabulary": vocabulary,
                "arm": name,
                "what": arm.what,
                "tokens_per_second": round(speed[name]),
                "peak_mb": round(memory[name]),
                "loss": runs[name][0]["loss"],
                **{f"speed_over_{b}": round(speed[name] / speed[b], 3) for b in baselines},
                f"memory_over_{baselines[0]}": round(memory[name] / memory[baselines[0]], 3),
                "spread": round((max(r["tokens_per_second"] for r in runs[name]) / speed[name] - 1), 3),
            }


def _child(module: str, kind: str, name: str, vocabulary: int, plan: dict[str, Any]) -> dict[str, float]:
    code = "from remask.bench.steps import measure; measure()"
    words = [sys.executable, "-W", "ignore", "-c", code, module, kind, name, str(vocabulary), json.dumps(plan)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise BadInput(f"the arm {name} at vocabulary {vocabulary} died ({last}): type a smaller --batch or --net.")
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> None:
    """The child process: time one arm and print one JSON line."""
    module_name, kind, name, vocabulary, plan_text = sys.argv[1:6]
    home = import_module(module_name)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(plan_text).items()}
    plan, arm = getattr(home, kind)(**fields), home.ARMS[name]
    alphabet = Alphabet(int(vocabulary), mask=1, pad=0, end=2, special=frozenset((0, 1, 2)))
    torch.manual_seed(0)
    module = arm.build(plan, alphabet).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(4, alphabet.size, (plan.batch, plan.length), generator=torch.Generator().manual_seed(1))
    batch = Batch.of(tokens, alphabet)
    first, steps, began = 0.0, 0, 0.0
    while steps < 2 or time.perf_counter() - began < plan.seconds:
        stream = Stream.of(steps, plan.batch)
        question = arm.ask(plan, batch, stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
            loss = arm.loss(module, question, stream)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        first = float(loss.detach()) if steps == 0 else first
        steps += 1
        if steps == 2:  # the first two steps warm up
            began = time.perf_counter()
    rate = (steps - 2) * tokens.numel() / (time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"tokens_per_second": rate, "peak_mb": peak, "loss": round(first, 4)}))
