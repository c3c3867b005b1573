"""Semi-autoregressive sampling: block after block from left to right, each filled by another sampler.

The net sees the blocks already written and masks after the current one. A canvas longer than the net's window slides:
the window's last cells are the current block, what lies before it is forgotten (Sahoo et al. 2024, arXiv 2406.07524,
section 4.2; blocks with a sampler inside: Nie et al. 2025, arXiv 2502.09992). A row stops at its end token.
Shapes: B batch, L length, W window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.sampler import Info, Law, Sampler, put, select
from remask.core.stream import Stream
from remask.samplers.first_hitting import FirstHitting


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
    """Cells of a block; a block begins at the first unknown cell after the last one."""
    window: int | None = None
    """Cells that the net sees at a time; the whole canvas by default."""
    ahead: int = 0
    """Cells after the block that a sliding window still shows."""
    stop: bool = True
    """End a row at the end token: what comes after it is padding."""

    @property
    def law(self) -> Law:
        """That of the inner sampler (any order of blocks is a chain rule), unless a window forgets what was written."""
        if self.window is not None:
            return Law.HEURISTIC
        return Law.EXACT if self.inner.law is Law.EXACT else self.inner.law

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput(f"blocks came with a size of {self.size} cells: type --size 1 or more.")
        if self.ahead < 0:
            raise BadInput(f"blocks came with {self.ahead} cells ahead: type --ahead 0 or more.")
        if self.window is not None and self.window < self.size + self.ahead:
            raise BadInput(
                f"blocks came with a window of {self.window} cells, which does not hold a block of {self.size} and "
                f"{self.ahead} ahead: type --window {self.size + self.ahead} or more."
            )

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> BlocksState:
        """The first block of every row."""
        if self.stop and conditional.alphabet.end is None:
            raise BadInput("blocks came with --stop, but this tokenizer has no end-of-text token: type --no-stop.")
        zero = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
        done = ~canvas.unknown.any(1)
        state = BlocksState(canvas.tokens, canvas.frozen, done, zero, zero, zero, None)
        return self._open(stream, state, zero, conditional)

    def step(self, stream: Stream, state: BlocksState, conditional: Conditional) -> tuple[BlocksState, Info]:
        """One step of the inner sampler; rows whose block is complete open their next one first."""
        rest = torch.nonzero(state.inner.done)[:, 0]
        if len(rest):
            part = select(state, rest)
            begun = self._open(stream.rows(rest), part, part.block + self.size, conditional.rows(rest))
            state = put(state, rest, begun)
        inner, told = self.inner.step(stream.child(state.block), state.inner, conditional)
        place = self._window(state)
        tokens = state.tokens.scatter(1, place, inner.tokens)
        changed = torch.zeros_like(state.frozen).scatter(1, place, told.changed)
        log_prob = torch.zeros_like(tokens, dtype=torch.float64).scatter(1, place, told.log_prob)
        position = torch.arange(tokens.shape[1], device=tokens.device)
        later = ~state.frozen & (position >= (state.block + self.size)[:, None])
        done = inner.done & ~later.any(1)
        if self.stop:
            over = self._over(state, tokens, conditional.alphabet) & inner.done[:, None]
            alphabet = conditional.alphabet
            filler = next(x for x in (alphabet.pad, alphabet.end) if x is not None)
            tokens = tokens.masked_fill(over, filler)
            changed, log_prob = changed | over, torch.where(over, 0.0, log_prob)
            done = done | over.any(1)
        state = state._replace(tokens=tokens, done=done, step=state.step + 1, inner=inner)
        return state, Info(changed, told.calls, log_prob)

    def settled(self, state: BlocksState, alphabet: Alphabet) -> Tensor:
        """Cells at the start of each row that are given or lie in finished blocks, [B]; none in a sliding window."""
        position = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        finished = torch.where(state.inner.done, state.block + self.size, state.block)
        known = (position < finished[:, None]) | state.frozen
        upto = (known & (state.tokens != alphabet.mask)).long().cumprod(1).sum(1)
        return upto if self._width(state) == state.tokens.shape[1] else torch.zeros_like(upto)

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
        block = torch.where(unknown, position, length).amin(1)
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
        text = behind & state.frozen & (tokens != alphabet.end)
        if alphabet.pad is not None:
            text = text & (tokens != alphabet.pad)
        return behind & ~state.frozen & ~text.any(1, keepdim=True)
