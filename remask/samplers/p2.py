"""Path planning: draft every cell, score the draft, keep the best and mask the rest again.

Each step asks the conditional once, draws a candidate for every masked cell, and scores every unknown cell of the
filled canvas; a share kappa(i / T) of them stays after step i of T, whether they were written before or are new, so
that written cells may be given back (Peng et al. 2025, arXiv 2502.03540, P2). The score is a log-probability, 0 or
less: that of the token in place under the conditional itself (self-planning), or the answer of a planner, a second
judge that reads the whole draft (`remask.nets.planner.WithPlanner`). For cells written before it is multiplied by
`eta`: at 0 they are never masked again, and the larger it is the sooner they are.
Shapes: B batch, L length, N cells asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.choose import best
from remask.core.conditional import Conditional, Visible
from remask.core.draw import Categorical, Draw
from remask.core.errors import BadInput
from remask.core.refill import Proposal
from remask.core.sampler import Info, Law, State, ask, masked, start
from remask.core.schedule import SCHEDULES
from remask.core.stream import Purpose, Stream
from remask.nets.wrap import Wrapper

MOST_STEPS = 1_000_000
LOWEST = torch.finfo(torch.float64).min


@dataclass(frozen=True)
class PathPlanning:
    """Drafts all cells, keeps the best by its own or a planner's judgement, and masks the rest again."""

    steps: int = 64
    """Steps T; a row ends sooner only where no later step would mask anything, and pays a call a step."""
    eta: float = 1.0
    """How readily written cells are masked again: their log-scores are multiplied by it; 0 = never."""
    schedule: str = "linear"
    """Schedule of the share that is kept: linear, log_linear or cosine."""
    draw: Draw = field(default_factory=Categorical)
    law = Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(f"path planning came with {self.steps} steps: type --steps with 1 to {MOST_STEPS}.")
        if not 0 <= self.eta < float("inf"):
            raise BadInput(f"path planning came with eta {self.eta}: type --eta with a number from 0 up.")
        if self.schedule not in SCHEDULES:
            raise BadInput(f"there is no schedule '{self.schedule}': type --schedule {'|'.join(SCHEDULES)}.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> State:
        """Nothing kept yet. Raises BadInput if nobody can judge a written token."""
        del stream
        if conditional.visible is Visible.NONE and not asked_planner(conditional):
            raise BadInput(
                "path planning came with a conditional that says nothing of written tokens: give it one that does, or "
                "a planner (remask.nets.planner.WithPlanner)."
            )
        return start(canvas)

    def masks(self, step: Tensor, unknown: Tensor) -> Tensor:
        """How many cells are masked after `step` [B] (from 1) of `unknown` [B] ones, [B]."""
        share = 1 - SCHEDULES[self.schedule].alpha(1 - step.double() / self.steps)
        count = (unknown * share + 1e-9).floor().long()  # 3 of 6 cells are 3, whatever 1 - (1 - 0.5) is
        return torch.where(step >= self.steps, 0, count)

    def step(self, stream: Stream, state: State, conditional: Conditional) -> tuple[State, Info]:
        """Draft, score, keep."""
        cells, unknown = masked(state, conditional), ~state.frozen
        size = unknown.sum(1)
        stay = self.masks(state.step + 1, size)
        planned = asked_planner(conditional)
        draft = self._draft(stream, state, conditional, cells, cells if planned else unknown)
        score, asked = judge(conditional, draft.tokens, stay > 0) if planned else _own(draft)
        # an ulp up: of equal scores the written cell stays, and eta = 0 is never, however sure a candidate is
        seasoned = torch.nextafter(self.eta * score, torch.full_like(score, torch.inf))
        kept = best(torch.where(cells, score, seasoned), unknown, size - stay)
        tokens = torch.where(unknown & ~kept, conditional.alphabet.mask, draft.tokens)
        opened = kept & cells
        log_prob = torch.where(opened, draft.spread(draft.written, 0.0), 0.0)
        after = state._replace(tokens=tokens, done=stay == 0, step=state.step + 1)
        return after, Info(opened | (unknown & ~cells & ~kept), draft.calls + asked, log_prob)

    def _draft(self, stream: Stream, state: State, conditional: Conditional, cells: Tensor, at: Tensor) -> Proposal:
        """The conditional's answer at `at` and candidates at the masked `cells` [B, L], which `at` holds."""
        log_prob, calls = ask(conditional, state.tokens, at)
        uniform = stream.uniform(state.step, Purpose.TOKEN, state.tokens.shape[1])[cells]
        tokens = state.tokens.clone()
        tokens[cells] = self.draw(log_prob[cells[at]], uniform, cells, state.tokens)
        return Proposal(at, log_prob, tokens, calls)


def asked_planner(conditional: Any) -> bool:
    """Whether the conditional has a planner; BadInput where a wrapper around it would hide it."""
    found, beneath = getattr(conditional, "plan", None) is not None, conditional
    while not found and isinstance(beneath, Wrapper):
        beneath = beneath.conditional
        if getattr(beneath, "plan", None) is not None:
            raise BadInput("a planner lies beneath another wrapper, which hides it: put WithPlanner around all others.")
    return found


def _own(draft: Proposal) -> tuple[Tensor, Tensor]:
    """Self-planning: log p of the token in place [B, L], and no further calls [B]."""
    return draft.spread(draft.written.clamp(min=LOWEST), 0.0), torch.zeros_like(draft.calls)


def judge(conditional: Conditional, tokens: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    """The planner's scores [B, L] of the rows `needed` [B], and the calls [B]: where all is kept nobody is asked."""
    score = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    index = torch.nonzero(needed)[:, 0]
    if len(index):
        rows: Any = conditional.rows(index)  # it has `plan` if the whole has
        score[index] = rows.plan(tokens[index]).double().clamp(min=LOWEST)
    return score, needed.long()
