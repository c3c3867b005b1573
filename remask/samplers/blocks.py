"""Semi-autoregressive sampling: block after block from left to right, each filled by another sampler.

The net sees the blocks already written and masks after the current one. A canvas longer than the net's window slides:
the window's last cells are the current block, what lies before it is forgotten (Sahoo et al. 2024, arXiv 2406.07524,
section 4.2; blocks with a sampler inside: Nie et al. 2025, arXiv 2502.09992). A row stops at its end token.
Shapes: B batch, L length, W window.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.sampler import Info, Law, Sampler, nothing, put, select
from remask.core.stream import Stream
from remask.samplers.ancestral import Ancestral
from remask.samplers.first_hitting import FirstHitting

MOST_CELLS = 1_000_000  # of a block: more is a slip of the keyboard


def joint(sampler: Any) -> bool:
    """Whether a sampler, or one inside it, draws under a constraint on cells of the canvas."""
    draw, inner = getattr(sampler, "draw", None), getattr(sampler, "inner", None)
    return bool(draw is not None and draw.joint) or (inner is not None and joint(inner))


def with_steps(inner: Any, steps: int) -> Any:
    """The sampler inside with so many steps; first-hitting, which needs one for each cell, becomes ancestral."""
    if isinstance(inner, FirstHitting):
        return Ancestral(steps, draw=inner.draw)
    if not hasattr(inner, "steps"):
        raise BadInput(
            f"--steps-per-block came for {type(inner).__name__}, which has no number of steps: leave it out, or type "
            "another --inner."
        )
    return replace(inner, steps=steps)


class BlocksState(NamedTuple):
    """A State; block: [B] int64, first cell of the current block; offset: [B] int64, first cell of the window; inner:
    the State of the sampler inside, on windows [B, W]."""

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor
    block: Tensor
    offset: Tensor
    inner: Any


@dataclass(frozen=True)
class Blocks:
    """Fills blocks from left to right, each with another sampler, on canvases of any length."""

    inner: Sampler = field(default_factory=FirstHitting)
    size: int = 32
    """Cells of a block; a block begins at the first unknown cell after the last one, unless --aligned."""
    window: int | None = None
    """Cells that the net sees at a time; the whole canvas by default."""
    ahead: int = 0
    """Cells after the block that a sliding window still shows."""
    aligned: bool = False
    """Let blocks begin at multiples of their size, as those of a net of blocks do."""
    steps_per_block: int | None = None
    """Steps of the sampler inside for each block; ancestral, where none was named."""
    stop: bool = True
    """End a row at the end token: what comes after it is padding. Not heeded under a pattern."""

    @property
    def law(self) -> Law:
        """That of the inner sampler (any order of blocks is a chain rule), unless a window forgets what was written.

        With --stop it is the law up to the end token; behind that there is padding, whatever the model would write.
        """
        if self.window is not None:
            return Law.HEURISTIC
        return Law.EXACT if self.inner.law is Law.EXACT else self.inner.law

    def __post_init__(self) -> None:
        if self.steps_per_block is not None:
            object.__setattr__(self, "inner", with_steps(self.inner, self.steps_per_block))
        if not 1 <= self.size <= MOST_CELLS:
            raise BadInput(f"blocks came with a size of {self.size} cells: type --size 1 to {MOST_CELLS}.")
        if not 0 <= self.ahead <= MOST_CELLS:
            raise BadInput(f"blocks came with {self.ahead} cells ahead: type --ahead 0 to {MOST_CELLS}.")
        if self.window is not None and self.window < self.size + self.ahead:
            raise BadInput(
                f"blocks came with a window of {self.window} cells, which does not hold a block of {self.size} and "
                f"{self.ahead} ahead: type --window {self.size + self.ahead} or more."
            )

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> BlocksState:
        """The first block of every row."""
        if self.stop and conditional.alphabet.end is None:
            raise BadInput("blocks came with --stop, but this tokenizer has no end-of-text token: type --no-stop.")
        length = canvas.tokens.shape[1]
        if joint(self.inner) and self.window is not None and self.window < length:
            raise BadInput(
                f"a pattern came with blocks and a window of {self.window} cells, which hides some of a canvas of "
                f"{length}: make the canvas shorter, or the window wider."
            )
        zero = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
        done = ~canvas.unknown.any(1)
        state = BlocksState(canvas.tokens, canvas.frozen, done, zero, zero, zero, None)
        state = self._next(stream, self._open(stream, state, zero, conditional), conditional)
        return state._replace(done=done | (state.inner.done & ~self._later(state).any(1)))

    def step(self, stream: Stream, state: BlocksState, conditional: Conditional) -> tuple[BlocksState, Info]:
        """One step of the inner sampler; rows whose block is complete open their next one first."""
        state = self._next(stream, state, conditional)
        inner, told = self._step_inside(stream, state, conditional)
        tokens, (changed, _, log_prob) = inner.tokens, told
        if self._width(state) < state.tokens.shape[1]:
            place = self._window(state)
            tokens = state.tokens.scatter(1, place, tokens)
            changed = torch.zeros_like(state.frozen).scatter(1, place, changed)
            log_prob = torch.zeros_like(tokens, dtype=torch.float64).scatter(1, place, log_prob)
        done = inner.done
        if done.any():
            done = done & ~self._later(state).any(1)
        if self.stop and not joint(self.inner):  # padding would break a pattern
            over = self._over(state, tokens, conditional.alphabet) & inner.done[:, None]
            alphabet = conditional.alphabet
            filler = next(x for x in (alphabet.pad, alphabet.end) if x is not None)
            tokens = tokens.masked_fill(over, filler)
            changed, log_prob = changed | over, torch.where(over, 0.0, log_prob)
            done = done | over.any(1)
        state = state._replace(tokens=tokens, done=done, step=state.step + 1, inner=inner)
        return state, Info(changed, told.calls, log_prob)

    def _step_inside(self, stream: Stream, state: BlocksState, conditional: Conditional) -> tuple[Any, Info]:
        """One step of the inner sampler in the rows that it has something to do in."""
        if not state.inner.done.any():
            return self.inner.step(stream.child(state.block), state.inner, conditional)
        going, told = torch.nonzero(~state.inner.done)[:, 0], nothing(state.inner.tokens)
        if not len(going):
            return state.inner, told
        part = select(state, going)
        inner, some = self.inner.step(stream.rows(going).child(part.block), part.inner, conditional.rows(going))
        return put(state.inner, going, inner), put(told, going, some)

    def _later(self, state: BlocksState) -> Tensor:
        """Unknown cells behind the current block, [B, L]."""
        position = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        return ~state.frozen & (position >= (state.block + self.size)[:, None])

    def _next(self, stream: Stream, state: BlocksState, conditional: Conditional) -> BlocksState:
        """Rows whose block is complete go to their next one, past those that the inner sampler leaves as they are."""
        while state.inner.done.any():
            rest = torch.nonzero(state.inner.done & ~state.done & self._later(state).any(1))[:, 0]
            if not len(rest):
                break
            if len(rest) == len(state.done):
                state = self._open(stream, state, state.block + self.size, conditional)
                continue
            part = select(state, rest)
            begun = self._open(stream.rows(rest), part, part.block + self.size, conditional.rows(rest))
            state = put(state, rest, begun)
        return state

    def settled(self, state: BlocksState, alphabet: Alphabet) -> Tensor:
        """Cells at the start of each row that are given or lie in finished blocks, [B]; none in a sliding window."""
        position = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        finished = torch.where(state.inner.done, state.block + self.size, state.block)
        known = (position < finished[:, None]) | state.frozen
        upto = torch.where(known & (state.tokens != alphabet.mask), len(position), position).amin(1)
        if self._width(state) < state.tokens.shape[1]:
            return torch.zeros_like(upto)
        inner = getattr(self.inner, "settled", None)
        return upto if inner is None else torch.minimum(upto, inner(state.inner, alphabet))

    def _width(self, state: BlocksState) -> int:
        length = state.tokens.shape[1]
        return length if self.window is None else min(self.window, length)

    def _window(self, state: BlocksState) -> Tensor:
        """Cells of each row's window, [B, W]."""
        return state.offset[:, None] + torch.arange(self._width(state), device=state.tokens.device)

    def _open(self, stream: Stream, state: BlocksState, after: Tensor, conditional: Conditional) -> BlocksState:
        """The block that begins with the first unknown cell from `after` [B] on, as the inner sampler's canvas."""
        length = state.tokens.shape[1]
        position = torch.arange(length, device=state.tokens.device)
        unknown = ~state.frozen & (position >= after[:, None])
        block = torch.where(unknown, position, length).amin(1) if length else after
        if self.aligned:
            block = block // self.size * self.size
        offset = (block + self.size + self.ahead - self._width(state)).clamp(min=0, max=length - self._width(state))
        state = state._replace(block=block, offset=offset)
        place = self._window(state)
        inside = unknown & (position < (block + self.size)[:, None])
        canvas = Canvas(state.tokens.gather(1, place), ~inside.gather(1, place))
        return state._replace(inner=self.inner.init(stream.child(block), canvas, conditional))

    def _over(self, state: BlocksState, tokens: Tensor, alphabet: Alphabet) -> Tensor:
        """Unknown cells after the first end token that the current block wrote, [B, L].

        A row with given text behind that token goes on: its end is where the text says.
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (position >= state.block[:, None]) & (position < (state.block + self.size)[:, None])
        ended = (tokens == alphabet.end) & inside & ~state.frozen
        behind = ended.long().cumsum(1) - ended.long() > 0
        text = behind & state.frozen & (tokens != alphabet.end) & (tokens != alphabet.mask)
        if alphabet.pad is not None:
            text = text & (tokens != alphabet.pad)
        return behind & ~state.frozen & ~text.any(1, keepdim=True)
