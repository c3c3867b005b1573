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

from remask.core.alphabet import Alphabet
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
    """What the reader wants, of every row.

    changed: [B, L] bool, cells that this step wrote (or masked again); calls: [B] int64, network calls that it spent on
    the row; log_prob: [B, L] float64, log p of every token as it was written, 0 where none was.
    """

    changed: Tensor
    calls: Tensor
    log_prob: Tensor


class Sampler(Protocol):
    """A frozen dataclass; its fields are its flags. It sees a conditional and nothing else.

    One whose finished cells never change may say so with a method `settled(state, alphabet)` like the function below.
    """

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
    """Some rows of a State or Info; a leaf may be the State of a sampler inside."""
    return type(leaves)(*(select(leaf, index) if isinstance(leaf, tuple) else leaf[index] for leaf in leaves))


def put(whole: Any, index: Tensor, part: Any) -> Any:
    """A State or Info with the rows of `index` replaced by those of `part`."""
    pairs = zip(whole, part)
    return type(whole)(*(put(a, index, b) if isinstance(a, tuple) else a.index_copy(0, index, b) for a, b in pairs))


def nothing(tokens: Tensor) -> Info:
    """The Info of a step that did nothing, for rows [B, L]."""
    calls = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    return Info(torch.zeros_like(tokens, dtype=torch.bool), calls, torch.zeros_like(tokens, dtype=torch.float64))


def run(
    sampler: Sampler, conditional: Conditional, canvas: Canvas, stream: Stream, state: Any = None
) -> Iterator[tuple[Any, Info]]:
    """Step until every row is done, yielding (State, Info) of all rows after each step.

    Rows that are done leave the batch. Pass a yielded `state` to resume from it. Caches are not State: the leading
    cells that are given are handed to `conditional.given` anew.
    """
    state = sampler.init(stream, canvas, conditional) if state is None else state
    known = getattr(sampler, "settled", settled)
    alive = torch.nonzero(~state.done)[:, 0]
    while len(alive):
        every, rows, streams = len(alive) == len(state.done), conditional.rows(alive), stream.rows(alive)
        over = False
        while not over:
            part = state if every else select(state, alive)
            upto = known(part, conditional.alphabet)
            cached = rows.given(part.tokens, upto) if upto.any() else rows
            part, info = sampler.step(streams, part, cached)
            over = bool(part.done.any())
            if every:
                state = part
            else:
                state, info = put(state, alive, part), put(nothing(canvas.tokens), alive, info)
            yield state, info
        alive = alive[~part.done]


def settled(state: Any, alphabet: Alphabet) -> Tensor:
    """How many cells at the start of each row are given and known, [B].

    Cells that the sampler wrote itself do not count: a later move may mask them again.
    """
    return (state.frozen & (state.tokens != alphabet.mask)).long().cumprod(1).sum(1)


def masked(state: Any, conditional: Conditional) -> Tensor:
    """The cells still to be filled, [B, L]: masks that are not given."""
    return (state.tokens == conditional.alphabet.mask) & ~state.frozen


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
