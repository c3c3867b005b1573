"""Loader: step number -> questions. A pure function, so that resuming needs no state and every rank agrees.

The whole global batch (all devices, all accumulation steps) is corrupted at once, which makes counts global before the
backward pass and stratifies time over all of it; each rank then takes its rows.
Shapes: R rows of the corpus, L length, K terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.objective import Batch, Objective, Question
from remask.core.stream import Stream
from remask.data.order import Order
from remask.data.pack import Rows


class Part(NamedTuple):
    """What one forward pass gets: a question, its uniforms, and the counts [K] of the whole step."""

    question: Question
    stream: Stream
    counts: Tensor


class Loader:
    """Endless questions, from any step on; `progress` tells how much of the training lies before a step."""

    def __init__(
        self,
        objective: Objective,
        rows: Rows,
        alphabet: Alphabet,
        *,
        batch: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        progress: Callable[[int], float] = lambda step: 0.0,
    ):
        self.objective, self.rows, self.alphabet = objective, rows, alphabet
        self.batch, self.accumulate, self.seed = batch, accumulate, seed
        self.rank, self.ranks = rank, ranks
        self.progress = progress
        self.order = Order(len(rows.tokens), seed)

    @property
    def slots(self) -> int:
        """Rows of one optimizer step over all devices."""
        return self.batch * self.accumulate * self.ranks

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a step learns from."""
        return self.slots * self.rows.tokens.shape[1]

    def step(self, number: int) -> list[Part]:
        """The parts of optimizer step `number` that belong to this rank."""
        index = torch.as_tensor(self.order.take(number * self.slots, self.slots))
        batch = Batch.of(self.rows.tokens[index], self.alphabet, self.rows.documents[index])
        batch = batch._replace(progress=min(self.progress(number), 1.0))
        stream = Stream.of(self.seed, batch.slot).child(number)
        return self._cut(self.objective.corrupt(batch, stream), stream)

    def _cut(self, question: Question, stream: Stream) -> list[Part]:
        """The rows of a question of the whole step that belong to this rank, a part for each turn."""
        parts = []
        for turn in range(self.accumulate):
            first = (turn * self.ranks + self.rank) * self.batch
            here = slice(first, first + self.batch)
            mine = question.part(here)
            parts.append(Part(mine, Stream(stream.seeds[here]), question.counts))
        return parts

    def forever(self, at: Callable[[], int]) -> Iterator[Part]:
        """Parts of the step that `at()` names, then of the next, and so on."""
        number = at()
        while True:
            yield from self.step(number)
            number += 1
