"""Ancestral sampling: walk the time grid from 1 to 0, unmasking cells by their posterior.

From t to s < t a masked cell opens with probability (alpha_s - alpha_t) / (1 - alpha_t) and then takes a token from
p(x_i | the visible rest); cells that open in the same step do not see each other, so the law tends to the model's as
`steps` grows (Sahoo et al. 2024, arXiv 2406.07524, eq. 7 with SUBS). Positions are chosen first and tokens drawn
after: no uniform is compared with p(token) * (t - s), so rare tokens keep their probability at any `steps`.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.choose import each
from remask.core.conditional import Conditional
from remask.core.draw import Categorical, Draw
from remask.core.errors import BadInput
from remask.core.refill import refill
from remask.core.sampler import Info, Law, State, masked, start
from remask.core.schedule import SCHEDULES
from remask.core.stream import Purpose, Stream

MOST_STEPS = 1_000_000  # more is a slip of the keyboard


@lru_cache(maxsize=8)
def opening(schedule: str, steps: int, device: torch.device) -> Tensor:
    """Probability [T] that a masked cell opens in each of the steps; the last opens whatever is left."""
    alpha, step = SCHEDULES[schedule].alpha, torch.arange(steps, device=device)
    t, s = 1 - step.double() / steps, 1 - (step + 1).double() / steps
    return torch.where(step + 1 >= steps, 1.0, (alpha(s) - alpha(t)) / (1 - alpha(t)))


@dataclass(frozen=True)
class Ancestral:
    """Cells open at random times on a grid; the law tends to the model's as `steps` grows."""

    steps: int = 256
    """Time steps T; a row pays a network call only for steps in which a cell of it opens."""
    schedule: str = "linear"
    """Noise schedule: linear, log_linear or cosine."""
    draw: Draw = field(default_factory=Categorical)

    @property
    def law(self) -> Law:
        """LIMIT, if tokens are drawn from the conditionals as they are."""
        return Law.LIMIT if self.draw.faithful else Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(
                f"ancestral sampling came with {self.steps} steps: type --steps 1 or more, up to {MOST_STEPS}."
            )
        if self.schedule not in SCHEDULES:
            raise BadInput(f"there is no schedule '{self.schedule}': type --schedule {'|'.join(SCHEDULES)}.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> State:
        """Time 1."""
        del stream, conditional
        return start(canvas)

    def step(self, stream: Stream, state: State, conditional: Conditional) -> tuple[State, Info]:
        """One step of the grid, from t = 1 - step/T to s = t - 1/T."""
        opens = opening(self.schedule, self.steps, state.step.device)[state.step]
        cells = masked(state, conditional)
        where = stream.uniform(state.step, Purpose.WHERE, state.tokens.shape[1])
        return refill(self.draw, stream, state, conditional, each(where, cells, opens[:, None]), cells)
