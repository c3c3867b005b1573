"""Parallel decoding with iterative refinement: every step reads the whole draft and writes all of it anew.

No token is kept: a step asks about all unknown cells at once, those that show a token too, and draws y. A rejecter
(`rejecters.py`) says which tokens of y are not believed. In their cells the next step reads a replacement: what the
cell began with, the token that it showed before, or the best of the sum of all answers so far. After the last of T
steps every token is believed (Li et al. 2024, arXiv 2407.21046, PaDIR). The details follow the released code.

With nothing rejected it is the chain that redraws all cells at once (as `parallel_gibbs` does), and tokens that were
drawn apart need never come to agree with each other. Linear rejection with masks is Mask-Predict, but that tokens which
are kept are read and written anew.

A row ends before step T where its text comes back as it was read and no rejected cell hides another token: a greedy
draft would be the same in every later step. The released code stops as soon as the text comes back, whatever is
rejected, and deletes the masks that are left; here a row is always full.

Stutter removal rejects each token that repeats its left neighbour, in every step and after the last one too. There the
cell becomes the pad id: a blank, which means nothing and is not printed. An alphabet without one keeps the token.

The sum is one of log p instead of logits: these differ by a constant in each cell and step, so the best token is the
same. What a step calls impossible counts as -1e4 nats: one such step must not outweigh all others.
Shapes: B batch, L length, N cells asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.conditional import Conditional, Visible
from remask.core.draw import Draw, Greedy
from remask.core.errors import BadInput
from remask.core.refill import Proposal, propose
from remask.core.sampler import Info, Law, start
from remask.core.stream import Stream
from remask.samplers.p2 import asked_planner
from remask.samplers.rejecters import PLANNED, REJECTERS, Draft, repeats
from remask.samplers.sundae import STARTS

MOST_STEPS = 1_000_000
LEAST = -1e4


class PaDIRState(NamedTuple):
    """A State; begun: [B, L] int64, what it began with; total: [B, L, V] float32, the summed log p, or [B, L, 0]."""

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor
    begun: Tensor
    total: Tensor


class Replacement(NamedTuple):
    """What rejected cells show instead: [B, L] from a State whose sum holds this step; sums: whether it needs one."""

    pick: Callable[[PaDIRState], Tensor]
    sums: bool = False


REPLACEMENTS: dict[str, Replacement] = {
    "initial": Replacement(lambda state: state.begun),
    "previous": Replacement(lambda state: state.tokens),
    "sum": Replacement(lambda state: state.total.argmax(2), sums=True),
}


@dataclass(frozen=True)
class PaDIR:
    """Writes all cells in every step from the whole draft before it, but for tokens that are rejected."""

    steps: int = 4
    """Steps T, a network call each, and a planner's but in the last; a row that reads what it writes ends sooner."""
    start: str = "mask"
    """What unknown cells begin with: mask, or random tokens."""
    reject: str = "none"
    """Which tokens are not believed after a step: none, constant, linear, stutter, or learned (needs a planner)."""
    reject_share: float = 0.3
    """The least certain share of the tokens that --reject constant rejects."""
    replace: str = "initial"
    """What a rejected cell shows: initial (as it began), previous (its last token), sum (the best of all answers)."""
    remove_stutter: bool = False
    """Reject tokens that repeat their left neighbour in every step, and delete those that are left in the end."""
    draw: Draw = field(default_factory=Greedy)
    law = Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(f"parallel decoding came with {self.steps} steps: type --steps with 1 to {MOST_STEPS}.")
        if not 0 <= self.reject_share <= 1:
            raise BadInput(
                f"parallel decoding came with reject share {self.reject_share}: type --reject-share with 0 to 1."
            )
        for flag, named, known in (
            ("start", self.start, STARTS),
            ("reject", self.reject, REJECTERS),
            ("replace", self.replace, REPLACEMENTS),
        ):
            if named not in known:
                raise BadInput(f"parallel decoding knows no {flag} '{named}': type --{flag} {'|'.join(known)}.")
        if self.remove_stutter and self.draw.joint:
            raise BadInput("deleting repeated tokens would break a pattern: type --no-remove-stutter.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> PaDIRState:
        """Nothing read yet; every unknown cell begins anew, whatever it held.

        Raises BadInput if the conditional says nothing of visible tokens, or has no planner where one is asked.
        """
        if conditional.visible is Visible.NONE and not (self.steps == 1 and self.start == "mask"):
            raise BadInput(
                "parallel decoding came with a conditional that says nothing of visible tokens: type --steps 1, or "
                "give one whose `visible` is DENOISE or LEAVE_ONE_OUT."
            )
        if self.reject in PLANNED and not asked_planner(conditional):
            raise BadInput(
                f"parallel decoding came with --reject {self.reject} and a conditional without a planner: wrap it in "
                "remask.nets.planner.WithPlanner, or type --reject linear."
            )
        rows, length = canvas.tokens.shape
        begun = torch.where(canvas.unknown, STARTS[self.start](stream, length, conditional.alphabet), canvas.tokens)
        width = conditional.alphabet.size if REPLACEMENTS[self.replace].sums else 0
        total = torch.zeros(rows, length, width, device=begun.device)
        return PaDIRState(*start(canvas)._replace(tokens=begun), begun, total)

    def step(self, stream: Stream, state: PaDIRState, conditional: Conditional) -> tuple[PaDIRState, Info]:
        """Read the draft, write it anew, replace what is rejected."""
        unknown, replacement = ~state.frozen, REPLACEMENTS[self.replace]
        proposal = propose(self.draw, stream, state, conditional, unknown)
        written, last = proposal.tokens, state.step + 1 >= self.steps
        if replacement.sums:
            state = state._replace(total=_added(state.total, proposal))
        draft = Draft(proposal, state.step, self.steps, self.reject_share)
        doubted, asked = REJECTERS[self.reject](draft, conditional)
        removed = self._stutters(draft, conditional.alphabet)
        rejected = (doubted & ~last[:, None]) | removed
        tokens = torch.where(rejected, replacement.pick(state), written)
        # the sum still moves towards the token that it hides
        hides = rejected & (tokens != written) & (torch.ones_like(removed) if replacement.sums else ~removed)
        done = last | ((tokens == state.tokens) & ~hides).all(1)
        tokens = torch.where(removed & done[:, None], _blank(written, conditional.alphabet), tokens)
        drawn = unknown & (tokens == written)
        changed = drawn | (unknown & ((tokens != state.tokens) | (state.step == 0)[:, None]))  # the start is news too
        log_prob = torch.where(drawn, proposal.spread(proposal.written, 0.0), 0.0)
        after = state._replace(tokens=tokens, done=done, step=state.step + 1)
        return after, Info(changed, proposal.calls + asked, log_prob)

    def _stutters(self, draft: Draft, alphabet: Alphabet) -> Tensor:
        """The cells whose token is removed, [B, L] bool."""
        found = repeats(draft.tokens, draft.unknown, alphabet)
        return found if self.remove_stutter else torch.zeros_like(found)


def _added(total: Tensor, proposal: Proposal) -> Tensor:
    """The sum of log p [B, L, V] with this step's answer."""
    total = total.clone()
    total[proposal.at] += proposal.log_prob.to(total.dtype).clamp(min=LEAST)
    return total


def _blank(written: Tensor, alphabet: Alphabet) -> Tensor:
    """What stands in a cell [B, L] whose token is deleted: the pad id, or the token where there is none."""
    return written if alphabet.pad is None else torch.full_like(written, alphabet.pad)
