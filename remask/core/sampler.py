"""Sampler: a conditional and a canvas in, a full canvas out; and the one loop of the library.

State is what the next step needs, every leaf leading with B; Info is what the reader wants. Command, HTTP, progress
and tests all consume the one generator `run`.
Shapes: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.conditional import Conditional
from remask.core.stream import Stream


class Law(Enum):
    """What a sampler promises of the law of its canvases, given exact conditionals."""

    EXACT = "exact"  # the joint law itself
    LIMIT = "limit"  # tends to it as the budget grows
    HEURISTIC = "heuristic"  # something else, on purpose


class State(NamedTuple):
    """What the next step needs, of every row; samplers with more to remember define their own with these first.

    tokens: [B, L] int64; frozen: [B, L] bool; done: [B] bool; step: [B] int64, steps taken.
    """

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor


class Info(NamedTuple):
    """What the reader wants, of every row: changed [B, L] bool, cells written by this step; calls [B] int64, network
    calls that this step spent on the row."""

    changed: Tensor
    calls: Tensor


class Sampler(Protocol):
    """A frozen dataclass; its fields are its flags. It sees a conditional and nothing else."""

    @property
    def law(self) -> Law:
        """What it promises."""
        ...

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> Any:
        """The first State."""
        ...

    def step(self, stream: Stream, state: Any, conditional: Conditional) -> tuple[Any, Info]:
        """One step of the rows in `state`, none of which is done."""
        ...


def start(canvas: Canvas) -> State:
    """A State with nothing done yet: a row with nothing unknown is done before it begins."""
    rows = len(canvas.tokens)
    done = ~canvas.unknown.any(1)
    return State(canvas.tokens, canvas.frozen, done, torch.zeros(rows, dtype=torch.int64, device=done.device))


def select(leaves: Any, index: Tensor) -> Any:
    """Some rows of a State or Info."""
    return type(leaves)(*(leaf[index] for leaf in leaves))


def _put(whole: Any, index: Tensor, part: Any) -> Any:
    return type(whole)(*(a.index_copy(0, index, b) for a, b in zip(whole, part)))


def run(
    sampler: Sampler, conditional: Conditional, canvas: Canvas, stream: Stream, state: Any = None
) -> Iterator[tuple[Any, Info]]:
    """Step until every row is done, yielding (State, Info) of all rows after each step.

    Rows that are done leave the batch. Pass a yielded `state` to resume from it. Caches are not State: the leading
    cells that are given are handed to `conditional.given` anew.
    """
    state = sampler.init(stream, canvas, conditional) if state is None else state
    alive = torch.nonzero(~state.done)[:, 0]
    rows = conditional.rows(alive)
    while len(alive):
        part = select(state, alive)
        cached = rows.given(part.tokens, settled(part.tokens, part.frozen, conditional.alphabet.mask))
        part, info = sampler.step(stream.rows(alive), part, cached)
        state = _put(state, alive, part)
        nothing = Info(torch.zeros_like(canvas.frozen), torch.zeros(len(canvas.tokens), dtype=torch.int64))
        yield state, _put(Info(nothing.changed, nothing.calls.to(info.calls.device)), alive, info)
        if part.done.any():
            alive = alive[~part.done]
            rows = conditional.rows(alive)


def settled(tokens: Tensor, frozen: Tensor, mask: int) -> Tensor:
    """How many cells at the start of each row are given and known, [B].

    Cells that the sampler wrote itself do not count: a later move may mask them again.
    """
    return (frozen & (tokens != mask)).long().cumprod(1).sum(1)


def sample(sampler: Sampler, conditional: Conditional, canvas: Canvas, stream: Stream) -> Canvas:
    """The canvas that `run` ends with."""
    tokens = canvas.tokens
    for state, _ in run(sampler, conditional, canvas, stream):
        tokens = state.tokens
    return Canvas(tokens, canvas.frozen)


def ask(conditional: Conditional, tokens: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Log p [N, V] at the True cells of `at`, asking only the rows that have one; and the calls spent, [B].

    Rows in which nothing is to be opened cost nothing.
    """
    asked = at.any(1)
    if asked.all():
        return conditional(tokens, at), asked.long()
    index = torch.nonzero(asked)[:, 0]
    if not len(index):
        return torch.zeros(0, conditional.alphabet.size, device=tokens.device), asked.long()
    return conditional.rows(index)(tokens[index], at[index]), asked.long()
