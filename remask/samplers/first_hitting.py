"""First-hitting sampling: one cell at a time in uniformly random order, which is ancestral sampling in continuous time.

With n cells masked at time t the next one opens at t * u^(1/n), and it is each of them with equal probability; the
network is asked once a token and there is no time grid (Zheng et al. 2024, arXiv 2409.02908, Algorithm 1). The times
matter only to nets that are told the time, so they are left out here.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from remask.core.canvas import Canvas
from remask.core.choose import exactly
from remask.core.conditional import Conditional
from remask.core.draw import Categorical, Draw
from remask.core.refill import refill
from remask.core.sampler import Info, Law, State, masked, start
from remask.core.stream import Purpose, Stream


@dataclass(frozen=True)
class FirstHitting:
    """One random cell a step, exact: as many network calls as unknown cells."""

    draw: Draw = field(default_factory=Categorical)

    @property
    def law(self) -> Law:
        """EXACT, if tokens are drawn from the conditionals as they are."""
        return Law.EXACT if self.draw.faithful else Law.HEURISTIC

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> State:
        """Nothing opened yet."""
        del stream, conditional
        return start(canvas)

    def step(self, stream: Stream, state: State, conditional: Conditional) -> tuple[State, Info]:
        """Open one masked cell of every row."""
        cells = masked(state, conditional)
        where = stream.uniform(state.step, Purpose.WHERE, state.tokens.shape[1])
        one = torch.ones_like(state.step)
        return refill(self.draw, stream, state, conditional, exactly(where, cells, one), cells)
