"""Confidence sampling: ask at every masked cell, draw a token for each, keep those that the net is surest of.

MaskGIT opens as many as a cosine schedule says and puts Gumbel noise on the log of the score, less of it with every
step (Chang et al. 2022, arXiv 2202.04200, section 3.3). LLaDA opens equal counts by the probability of the drawn token
(Nie et al. 2025, arXiv 2502.09992); the margin between the best two tokens finds better orders for puzzles (Kim et al.
2025, arXiv 2502.06768). A threshold opens whatever is surer than it (Wu et al. 2025, arXiv 2505.22618, section 3.3).

One cell a step, chosen by the distributions alone, is exact: the next cell is a function of what is visible, so the
canvas is drawn by the chain rule, in an order that depends on the branch. Chosen by the drawn token it is not: the draw
decides which cell is kept, and probable tokens are kept too often. Cells that open together do not see each other.
Shapes: B batch, L length, N cells asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.certainty import CERTAINTIES, Certainty, margin
from remask.core.choose import best
from remask.core.conditional import Conditional
from remask.core.draw import Categorical, Draw
from remask.core.errors import BadInput
from remask.core.refill import Proposal, commit, propose
from remask.core.sampler import Info, Law, State, masked, start
from remask.core.schedule import SCHEDULES, Schedule, due
from remask.core.stream import Purpose, Stream

MOST = 1_000_000  # steps, and noise: more is a slip of the keyboard
LEAST = math.log(torch.finfo(torch.float64).tiny)  # a score of -inf (no margin at all) would not compare


def log_margin(log_prob: Tensor, drawn: Tensor) -> Tensor:
    """Log of the margin, [N]; -inf where the best two tokens are equally probable."""
    return margin(log_prob, drawn).log()


LOGARITHMS: dict[str, Certainty] = CERTAINTIES | {"margin": log_margin}
"""The scores as logarithms, which keeps their order: noise is added to these. The others are in nats already."""


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise of uniforms in [0, 1), float64 and finite."""
    return -(-uniform.clamp(min=2.0**-54).log()).log()


Choice = Callable[["Confidence", State, Proposal, Tensor], Tensor]
"""Sampler, State, Proposal and scores [B, L] to the cells that open, [B, L] bool."""


def counted(shares: Schedule) -> Choice:
    """As many cells as a schedule says."""

    def choose(sampler: Confidence, state: State, proposal: Proposal, score: Tensor) -> Tensor:
        # a cell that came with a token counts as opened
        count = due(shares, sampler.steps, state.step, (~state.frozen).sum(1), proposal.at.sum(1))
        return best(score, proposal.at, count)

    return choose


def sure(sampler: Confidence, state: State, proposal: Proposal, score: Tensor) -> Tensor:
    """Every cell whose most probable token passes the threshold, and the best one in any case."""
    top = proposal.spread(proposal.log_prob.amax(1).double().exp(), 0.0)
    return (top > sampler.threshold) | best(score, proposal.at, torch.ones_like(state.step))


COUNTS = {"equal": SCHEDULES["linear"], "cosine": SCHEDULES["cosine"]}
CHOICES: dict[str, Choice] = {name: counted(shares) for name, shares in COUNTS.items()} | {"threshold": sure}


@dataclass(frozen=True)
class Confidence:
    """The surest cells first, several a step: exact with a step for every cell, cheaper and cruder with fewer."""

    steps: int = 16
    """Steps T: a row with n masks costs min(T, n) network calls. --schedule threshold is not limited by it."""
    score: str = "top_probability"
    """What a cell is judged by: top_probability, margin, entropy, or drawn (p of the drawn token; never exact)."""
    schedule: str = "equal"
    """How many cells open a step: equal counts, cosine (few, then many), or threshold (all that pass --threshold)."""
    threshold: float = 0.9
    """With --schedule threshold: p of the most probable token above which a cell opens; at least one does a step."""
    noise: float = 0.0
    """Gumbel noise on the log of the score, times this and the share of steps that are left: 0 is deterministic."""
    draw: Draw = field(default_factory=Categorical)

    @property
    def law(self) -> Law:
        """LIMIT, if cells are counted, and chosen by distributions from which tokens are drawn as they are."""
        blind = self.score != "drawn" and self.schedule in COUNTS
        return Law.LIMIT if blind and self.draw.faithful else Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST:
            raise BadInput(f"confidence sampling came with {self.steps} steps: type --steps 1 or more, up to {MOST}.")
        if self.score not in CERTAINTIES:
            raise BadInput(f"there is no score '{self.score}': type --score {'|'.join(CERTAINTIES)}.")
        if self.schedule not in CHOICES:
            raise BadInput(f"there is no schedule '{self.schedule}': type --schedule {'|'.join(CHOICES)}.")
        if not 0 <= self.threshold <= 1:
            raise BadInput(f"confidence sampling came with threshold {self.threshold}: type --threshold 0 to 1.")
        if not 0 <= self.noise <= MOST:
            raise BadInput(f"confidence sampling came with noise {self.noise}: type --noise 0 or more, up to {MOST}.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> State:
        """Nothing opened yet."""
        del stream, conditional
        return start(canvas)

    def step(self, stream: Stream, state: State, conditional: Conditional) -> tuple[State, Info]:
        """Draw a token for every masked cell, keep the surest."""
        cells = masked(state, conditional)
        proposal = propose(self.draw, stream, state, conditional, cells)
        score = LOGARITHMS[self.score](proposal.log_prob, proposal.tokens[cells]).clamp(min=LEAST)
        wide = proposal.spread(score, 0.0) + self._noise(stream, state)
        chosen = CHOICES[self.schedule](self, state, proposal, wide)
        return commit(state, proposal, chosen, ~(cells & ~chosen).any(1))

    def _noise(self, stream: Stream, state: State) -> Tensor:
        if not self.noise:
            return torch.zeros_like(state.tokens, dtype=torch.float64)
        left = (1 - (state.step + 1).double() / self.steps).clamp(min=0)  # a threshold may take more steps than that
        return self.noise * left[:, None] * gumbel(stream.uniform(state.step, Purpose.CHOICE, state.tokens.shape[1]))
