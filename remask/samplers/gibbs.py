"""Gibbs sampling: mask a few cells again, fill them with another sampler, repeat.

Each move keeps the joint law invariant when the refill is exact (`first_hitting`); drawing the block as a product of
marginals does not, however long the chain (Geman & Geman 1984, IEEE PAMI 6; as a masked language model's way to write:
Wang & Cho 2019, arXiv 1902.04094). Larger blocks mix faster and cost more calls a move.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.choose import exactly
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.sampler import Info, Law, Sampler, put, select, settled
from remask.core.stream import Purpose, Stream
from remask.samplers.first_hitting import FirstHitting

MOST_MOVES = 1_000_000


class GibbsState(NamedTuple):
    """A State; move: [B] int64, the move under way (0 = the first filling); inner: the State of the sampler inside."""

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor
    move: Tensor
    inner: Any


@dataclass(frozen=True)
class Gibbs:
    """Masks a random block again and refills it with another sampler; keeps the law that the inner sampler has."""

    inner: Sampler = field(default_factory=FirstHitting)
    size: int = 8
    """Cells masked again in each move; all of them where a row has fewer unknown ones."""
    moves: int = 16
    """Moves after the first filling; 0 leaves that as it is."""
    consecutive: bool = False
    """Mask neighbours (a phrase) instead of cells anywhere."""

    @property
    def law(self) -> Law:
        """That of the inner sampler: a move redraws a block from its conditional law, and the start has the law."""
        law = self.inner.law
        return Law.EXACT if law is Law.EXACT else law

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST_MOVES:
            raise BadInput(f"gibbs came with blocks of {self.size} cells: type --size 1 to {MOST_MOVES}.")
        if not 0 <= self.moves <= MOST_MOVES:
            raise BadInput(f"gibbs came with {self.moves} moves: type --moves 0 to {MOST_MOVES}.")
        if self.moves and stops(self.inner):
            raise BadInput(
                "gibbs came with blocks inside that stop at the end token, behind which its moves would write again: "
                "type --no-inner-stop."
            )

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> GibbsState:
        """Move 0: the masks are filled; unknown cells that hold a token are a draft, and wait for their moves."""
        masks = canvas.unknown & (canvas.tokens == conditional.alphabet.mask)
        inner = self.inner.init(stream.child(0), Canvas(canvas.tokens, ~masks), conditional)
        zero = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
        done = ~canvas.unknown.any(1) | (inner.done & (self.moves == 0))
        return GibbsState(canvas.tokens, canvas.frozen, done, zero, zero, inner)

    def step(self, stream: Stream, state: GibbsState, conditional: Conditional) -> tuple[GibbsState, Info]:
        """One step of the inner sampler; rows whose refill is complete begin their next move first."""
        before = state.tokens
        rest = torch.nonzero(state.inner.done)[:, 0]
        if len(rest):
            begun = self._begin(stream.rows(rest), select(state, rest), conditional.rows(rest))
            state = put(state, rest, begun)
        inner, info = self.inner.step(stream.child(state.move), state.inner, conditional)
        changed = info.changed | (inner.tokens != before)  # masked again and not yet refilled
        done = inner.done & (state.move >= self.moves)
        state = state._replace(tokens=inner.tokens, done=done, step=state.step + 1, inner=inner)
        return state, info._replace(changed=changed)

    def _begin(self, stream: Stream, state: GibbsState, conditional: Conditional) -> GibbsState:
        """The next move of every row: choose a block, mask it, hand it to the inner sampler."""
        move = state.move + 1
        uniform = stream.uniform(move, Purpose.BLOCK, state.tokens.shape[1])
        block = (neighbours if self.consecutive else anywhere)(uniform, ~state.frozen, self.size)
        tokens = torch.where(block, conditional.alphabet.mask, state.tokens)
        inner = self.inner.init(stream.child(move), Canvas(tokens, ~block), conditional)
        return state._replace(tokens=tokens, move=move, inner=inner)

    def settled(self, state: GibbsState, alphabet: Alphabet) -> Tensor:
        """Given cells at the start of each row, [B], unless the inner sampler knows fewer."""
        upto = settled(state, alphabet)
        inner = getattr(self.inner, "settled", None)
        return upto if inner is None else torch.minimum(upto, inner(state.inner, alphabet))


def stops(sampler: Any) -> bool:
    """Whether a sampler, or one inside it, ends rows at their end token."""
    inner = getattr(sampler, "inner", None)
    return bool(getattr(sampler, "stop", False)) or (inner is not None and stops(inner))


def anywhere(uniform: Tensor, unknown: Tensor, size: int) -> Tensor:
    """A uniformly random subset of `size` unknown cells, [B, L]."""
    return exactly(uniform, unknown, torch.full_like(unknown[:, 0], size, dtype=torch.int64))


def neighbours(uniform: Tensor, unknown: Tensor, size: int) -> Tensor:
    """`size` unknown cells in a row (given cells between them are stepped over), every run equally likely, [B, L]."""
    rank = unknown.long().cumsum(1) - 1
    runs = (unknown.sum(1) - size + 1).clamp(min=1)
    first = (uniform[:, 0] * runs).long()[:, None]
    return unknown & (rank >= first) & (rank < first + size)
