"""Synchronous Gibbs sampling: every cell is redrawn at once from p(x_i | all others), again and again.

One pass a sweep where the net answers leave-one-out, and a wrong law in any case: the chain does not tend to the joint
law but to a stationary law of its own. For an Ising law p ~ exp(sum_ij J_ij x_i x_j + sum_i h_i x_i) that is
pi(x) ~ exp(sum_i h_i x_i) prod_i cosh(h_i + sum_j J_ij x_j) (Little 1974, Mathematical Biosciences 19). It is here to
be measured against `gibbs`.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from remask.core.canvas import Canvas
from remask.core.conditional import Conditional, Visible
from remask.core.draw import Categorical, Draw
from remask.core.errors import BadInput
from remask.core.refill import commit, propose
from remask.core.sampler import Info, Law, State, masked, start
from remask.core.stream import Stream
from remask.nets.wrap import LeaveOneOut

MOST_MOVES = 1_000_000


@dataclass(frozen=True)
class ParallelGibbs:
    """Redraws every cell at once from p(cell | all others); tends to a law of its own."""

    moves: int = 16
    """Sweeps after the first filling. A sweep costs one call, or one for each unknown cell where the net has seen the
    tokens that it is asked about."""
    draw: Draw = field(default_factory=Categorical)
    law = Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 0 <= self.moves <= MOST_MOVES:
            raise BadInput(f"parallel_gibbs came with {self.moves} moves: type --moves 0 to {MOST_MOVES}.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> State:
        """Step 0 fills the masks as a product of marginals; a row without masks is a draft and goes on to step 1."""
        del stream
        state = start(canvas)
        draft = ~masked(state, conditional).any(1)
        return state._replace(step=draft.long(), done=state.done | (draft & (self.moves == 0)))

    def step(self, stream: Stream, state: State, conditional: Conditional) -> tuple[State, Info]:
        """The first filling, or one sweep."""
        first = state.step == 0
        at = torch.where(first[:, None], masked(state, conditional), ~state.frozen)
        seen = conditional.visible is not Visible.LEAVE_ONE_OUT
        asked = LeaveOneOut(conditional) if seen else conditional
        proposal = propose(self.draw, stream, state, asked, at)
        if seen:
            proposal = proposal._replace(calls=torch.where(first, 1, at.sum(1)))
        return commit(state, proposal, at, state.step >= self.moves)
