"""Entropy-bounded sampling: open as many cells together as their entropies can answer for.

Masked cells are sorted by how sure the net is of them, and the largest prefix U opens in which

    sum of H(x_i), i in U  -  max of H(x_i), i in U  <=  gamma

(Ben-Hamu et al. 2025, arXiv 2505.24857, EB-Sampler). The left side bounds the total correlation of U given what is
visible, sum H(x_i) - H(x_U), since H(x_U) is at least the largest H(x_i); and that is the divergence KL(p || q) of
drawing U as a product of marginals. So with exact conditionals a step costs at most gamma nats, and the whole canvas
at most gamma times the steps. A prefix of one cell costs nothing; with gamma = 0 cells that are already certain open
along with it, and the law is exact.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.certainty import CERTAINTIES, entropy
from remask.core.conditional import Conditional
from remask.core.draw import Categorical, Draw
from remask.core.errors import BadInput
from remask.core.refill import commit, propose
from remask.core.sampler import Info, Law, State, masked, start
from remask.core.stream import Stream


def within(score: Tensor, nats: Tensor, among: Tensor, gamma: float) -> Tensor:
    """The largest prefix of the cells of `among`, best `score` first, whose sum less maximum of `nats` is <= gamma.

    All [B, L]; of equal scores the first in the row. At least one cell of every row that has any.
    """
    order = torch.where(among, -score, torch.inf).argsort(dim=1, stable=True)  # the others come last
    sorted_nats = nats.gather(1, order)
    excess = sorted_nats.cumsum(1) - sorted_nats.cummax(1).values  # never falls, but for rounding
    fits = (excess <= gamma).long().cumprod(1).bool()
    return torch.zeros_like(among).scatter(1, order, fits) & among


@dataclass(frozen=True)
class EntropyBound:
    """As many cells a step as cost at most gamma nats; with gamma = 0 exact, one at a time but for certain ones."""

    gamma: float = 0.1
    """Nats of dependence that a step may ignore: 0 is exact, more opens more cells at once."""
    score: str = "entropy"
    """What cells are sorted by: entropy, top_probability, margin, or drawn (p of the drawn token; never exact)."""
    draw: Draw = field(default_factory=Categorical)

    @property
    def law(self) -> Law:
        """EXACT, if gamma is 0 and cells are sorted by distributions from which tokens are drawn as they are."""
        bent = self.score == "drawn" or not self.draw.faithful
        return Law.HEURISTIC if bent or self.gamma > 0 else Law.EXACT

    def __post_init__(self) -> None:
        if not self.gamma >= 0:  # NaN too; infinity opens everything at once
            raise BadInput(f"entropy-bounded sampling came with gamma {self.gamma}: type --gamma 0 or more.")
        if self.score not in CERTAINTIES:
            raise BadInput(f"there is no score '{self.score}': type --score {'|'.join(CERTAINTIES)}.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> State:
        """Nothing opened yet."""
        del stream, conditional
        return start(canvas)

    def step(self, stream: Stream, state: State, conditional: Conditional) -> tuple[State, Info]:
        """Draw a token for every masked cell, keep those of the largest prefix within the bound."""
        cells = masked(state, conditional)
        proposal = propose(self.draw, stream, state, conditional, cells)
        score = CERTAINTIES[self.score](proposal.log_prob, proposal.tokens[cells])
        nats = proposal.spread(-entropy(proposal.log_prob), 0.0)
        chosen = within(proposal.spread(score, 0.0), nats, cells, self.gamma)
        return commit(state, proposal, chosen, ~(cells & ~chosen).any(1))
