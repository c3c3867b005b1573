"""Batched against alone, on nets: every first divergence is a proven tie, or a fault.

A row that is run in a batch and by itself meets the same uniforms, but float32 kernels round by shape, so its answers
may differ in their last digits. Where the texts part for the first time, two things are shown: the answers differ by no
more than rounding, and the step taken with the *other* run's answers gives the other run's result. Then nothing but
rounding has decided.
Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.sampler import run, select
from remask.core.stream import Stream

ROUNDING = 1e-4  # nats; float32 logits of nets differ by about 1e-5 between shapes
MOST_STEPS = 600


class Recorder:
    """A conditional that answers for whole rows and keeps the answers, each with the row that it belongs to.

    kept: answers of the newest step, by root row, in the order of the calls.
    """

    def __init__(self, inner: Any, rows: int, kept: dict[int, list[Tensor]] | None = None, index: Tensor | None = None):
        self.inner, self.alphabet, self.visible = inner, inner.alphabet, inner.visible
        self.kept = {} if kept is None else kept
        self.index = torch.arange(rows) if index is None else index

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        answer = self.inner(tokens)
        for root, row in zip(self.index.tolist(), answer):
            self.kept.setdefault(root, []).append(row)
        return answer if at is None else answer[at]

    def rows(self, index: Tensor) -> Recorder:
        return Recorder(self.inner.rows(index), 0, self.kept, self.index[index])

    def given(self, tokens: Tensor, upto: Tensor) -> Recorder:
        return Recorder(self.inner.given(tokens, upto), 0, self.kept, self.index)


class Replay:
    """A conditional that gives recorded answers of one row, cut to its length."""

    def __init__(self, like: Any, answers: Iterator[Tensor]):
        self.alphabet, self.visible, self.answers = like.alphabet, like.visible, answers

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        answer = torch.stack([next(self.answers)[: tokens.shape[1]] for _ in tokens])
        return answer if at is None else answer[at]

    def rows(self, index: Tensor) -> Replay:
        return self

    def given(self, tokens: Tensor, upto: Tensor) -> Replay:
        return self


def ties(
    sampler: Any, together: Any, alone: list[Any], canvas: Canvas, lengths: list[int], stream: Stream, rounding: float
) -> int:
    """Rows whose text differs between the batch and the row by itself, each proven to be a tie; AssertionError if not.

    together: the conditional of the whole batch; alone: that of each row by itself, of its own length.
    """
    batch = Recorder(together, len(lengths))
    histories: list[list[tuple[Any, list[Tensor]]]] = [[] for _ in lengths]  # of every row: state after, answers
    for state, _ in islice(run(sampler, batch, canvas, stream), MOST_STEPS):
        for row, history in enumerate(histories):
            if row in batch.kept or not (history and history[-1][0].done.all()):
                history.append((select(state, torch.tensor([row])), batch.kept.get(row, [])))
        batch.kept.clear()
    found = 0
    for row, length in enumerate(lengths):
        index = torch.tensor([row])
        own = Canvas(canvas.tokens[index, :length], canvas.frozen[index, :length])
        found += _parts(sampler, Recorder(alone[row], 1), own, stream.rows(index), histories[row], rounding)
    return found


def _parts(sampler: Any, conditional: Recorder, canvas: Canvas, stream: Stream, history: Any, rounding: float) -> int:
    """1 if the row alone parts from its history in the batch, by a proven tie; 0 if it never does."""
    length = canvas.tokens.shape[1]
    before = sampler.init(stream, canvas, conditional)
    steps = 0
    for state, _ in islice(run(sampler, conditional, canvas, stream), MOST_STEPS):
        assert steps < len(history), "alone, the row takes more steps than in its batch"
        batched, answers = history[steps]
        steps += 1
        if torch.equal(state.tokens, batched.tokens[:, :length]):
            before = state
            conditional.kept.clear()
            continue
        own = conditional.kept.get(0, [])
        assert len(own) == len(answers), "batched and alone, a step asked a different number of times"
        gap = max(float(apart(a, b[:length])) for a, b in zip(own, answers))
        assert gap <= rounding, f"batched and alone, the answers differ by {gap:.2g} nats: that is no rounding"
        other, _ = sampler.step(stream, before, Replay(conditional, iter(answers)))
        assert torch.equal(other.tokens, batched.tokens[:, :length]), "with the same answers the step still differs"
        return 1
    idle = not steps and history[0][0].done.all() and not history[0][1]  # done before it began
    assert idle or steps == len(history), "in its batch, the row takes more steps than alone"
    return 0


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference of two answers where both have any probability; infinite where only one has."""
    one_only = (a == -torch.inf) != (b == -torch.inf)
    return torch.where(a == b, 0.0, (a - b).abs()).masked_fill(one_only, torch.inf).amax()
