"""Rejecters: which tokens of a parallel draft are not believed, and so are not what the next step reads.

    none       all are believed
    constant   the floor(share n) tokens of n whose cells are the least certain
    linear     the floor(n (T - t - 1) / T) least certain ones after step t = 0 .. T-1, fewer each time
    stutter    tokens that repeat their left neighbour
    learned    tokens that a planner gives less than even odds of being right

They are those of the PaDIR code (Li et al. 2024, arXiv 2407.21046). Two things differ. A count is met exactly, and of
equally certain cells the first are rejected: there the threshold takes all ties, and never fewer than one cell. And the
first cell of a row repeats nothing: there it is compared with the last one.
Shapes: B batch, L length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.certainty import top_probability
from remask.core.choose import best
from remask.core.conditional import Conditional
from remask.core.refill import Proposal
from remask.samplers.p2 import judge

EVEN = math.log(0.5)


class Draft(NamedTuple):
    """What a step wrote, and when.

    proposal: a token in every unknown cell, and what it was drawn from; step: [B] int64, from 0, of `steps`; share: of
    the tokens, for `constant`.
    """

    proposal: Proposal
    step: Tensor
    steps: int
    share: float

    @property
    def tokens(self) -> Tensor:
        """[B, L]."""
        return self.proposal.tokens

    @property
    def unknown(self) -> Tensor:
        """[B, L] bool."""
        return self.proposal.at

    def least_certain(self, count: Tensor) -> Tensor:
        """The `count` [B] unknown cells whose most probable token is the least probable, [B, L] bool."""
        certainty = top_probability(self.proposal.log_prob, self.tokens[self.unknown])
        return best(self.proposal.spread(-certainty, 0.0), self.unknown, count)


Rejecter = Callable[[Draft, Conditional], tuple[Tensor, Tensor]]
"""(draft, conditional) -> the cells rejected, [B, L] bool, and the further calls spent, [B] int64."""


def none(draft: Draft, conditional: Conditional) -> tuple[Tensor, Tensor]:
    """No cell."""
    del conditional
    return torch.zeros_like(draft.unknown), torch.zeros_like(draft.step)


def constant(draft: Draft, conditional: Conditional) -> tuple[Tensor, Tensor]:
    """The floor(share n) least certain of n unknown cells."""
    del conditional
    count = (draft.unknown.sum(1) * draft.share + 1e-9).floor().long()  # a tenth of 10 is 1, whatever 0.1 is
    return draft.least_certain(count), torch.zeros_like(draft.step)


def linear(draft: Draft, conditional: Conditional) -> tuple[Tensor, Tensor]:
    """The floor(n (T - t - 1) / T) least certain of n unknown cells: none after the last step."""
    del conditional
    count = draft.unknown.sum(1) * (draft.steps - draft.step - 1) // draft.steps
    return draft.least_certain(count), torch.zeros_like(draft.step)


def stutter(draft: Draft, conditional: Conditional) -> tuple[Tensor, Tensor]:
    """Unknown cells that repeat their left neighbour."""
    return repeats(draft.tokens, draft.unknown, conditional.alphabet), torch.zeros_like(draft.step)


def learned(draft: Draft, conditional: Conditional) -> tuple[Tensor, Tensor]:
    """Unknown cells whose token has, by the conditional's planner (`WithPlanner`), less than even odds; a call."""
    score, calls = judge(conditional, draft.tokens, draft.step + 1 < draft.steps)
    return draft.unknown & (score < EVEN), calls


REJECTERS: dict[str, Rejecter] = {
    "none": none,
    "constant": constant,
    "linear": linear,
    "stutter": stutter,
    "learned": learned,
}
PLANNED = frozenset({"learned"})
"""Those that ask the conditional's planner."""


def repeats(tokens: Tensor, unknown: Tensor, alphabet: Alphabet) -> Tensor:
    """The unknown cells that hold the same text token as the cell to their left, given or not, [B, L] bool."""
    text = torch.ones(alphabet.size, dtype=torch.bool, device=tokens.device)
    text[sorted(alphabet.special | {alphabet.mask})] = False
    found = torch.zeros_like(unknown)
    found[:, 1:] = (tokens[:, 1:] == tokens[:, :-1]) & text[tokens[:, 1:]] & unknown[:, 1:]
    return found
