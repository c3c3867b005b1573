"""Mask-Predict: fill everything in one pass, then mask the least certain tokens again and again, fewer each time.

Step 0 predicts all N unknown cells; step t = 1 .. T-1 masks the n_t = max(1, floor(N (1 - t/T))) tokens with the lowest
probability and predicts those only. A token that is kept keeps the probability that it was written with, however stale
(Ghazvininejad et al. 2019, arXiv 1904.09324, section 3). It corrects what was drawn together, and follows no law.

What was drawn together often says a word twice. With `remove_stutter`, as PaDIR has it, tokens that
repeat their left neighbour are masked in every pass besides the n_t others, and deleted after the last one: the cell
becomes the pad id, a blank, which is not printed. An alphabet without one keeps the token.
Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.choose import best
from remask.core.conditional import Conditional, Visible
from remask.core.draw import Draw, Greedy
from remask.core.errors import BadInput
from remask.core.refill import Proposal, commit, uniforms
from remask.core.sampler import Info, Law, ask, start
from remask.core.stream import Stream
from remask.samplers.rejecters import repeats

MOST_STEPS = 1_000_000


class MaskPredictState(NamedTuple):
    """A State; confidence: [B, L] float64, log p of every unknown cell's token when it was last weighed."""

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class MaskPredict:
    """Predict all, mask the least certain again, predict those: few passes, most probable tokens, no law."""

    steps: int = 10
    """Passes T: every row costs exactly that many network calls."""
    fresh: bool = False
    """Weigh kept tokens anew in every pass, instead of by the probability that they were written with."""
    draw: Draw = field(default_factory=Greedy)
    remove_stutter: bool = False
    """Mask tokens that repeat their left neighbour in every pass, and delete those that are left in the end."""
    law = Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(f"mask-predict came with {self.steps} steps: type --steps 1 or more, up to {MOST_STEPS}.")
        if self.remove_stutter and self.draw.joint:
            raise BadInput("deleting repeated tokens would break a pattern: type --no-remove-stutter.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> MaskPredictState:
        """Nothing predicted yet: step 0 masks every unknown cell, whatever it holds.

        Raises BadInput when kept tokens are to be weighed by a conditional that has nothing to say of them.
        """
        del stream
        if self.fresh and conditional.visible is Visible.NONE:
            raise BadInput(
                "mask-predict came with fresh weights and a net that says nothing of visible tokens: type --no-fresh."
            )
        return MaskPredictState(*start(canvas), torch.zeros_like(canvas.tokens, dtype=torch.float64))

    def step(self, stream: Stream, state: MaskPredictState, conditional: Conditional) -> tuple[MaskPredictState, Info]:
        """Mask the n_t least certain cells of every row and predict them; at step 0 these are all unknown ones."""
        unknown = ~state.frozen
        count = (unknown.sum(1) * (self.steps - state.step) // self.steps).clamp(min=1)
        again = best(-state.confidence, unknown, count)
        if self.remove_stutter:
            again = again | repeats(state.tokens, unknown, conditional.alphabet)
        hidden = state.tokens.masked_fill(again, conditional.alphabet.mask)
        asked = unknown if self.fresh else again
        log_prob, calls = ask(conditional, hidden, asked)
        # kept cells are weighed but not drawn: a joint draw must take them as they stand
        open_log_prob = log_prob[again[asked]]
        uniform = uniforms(self.draw, stream, state.step, again)
        tokens = hidden.masked_scatter(again, self.draw(open_log_prob, uniform, again, hidden))
        confidence = state.confidence.masked_scatter(asked, log_prob.gather(1, tokens[asked][:, None])[:, 0].double())
        proposal = Proposal(again, open_log_prob, tokens, calls)
        last = state.step + 1 >= self.steps
        after, info = commit(state._replace(confidence=confidence), proposal, again, last)
        if not self.remove_stutter or conditional.alphabet.pad is None:
            return after, info
        deleted = repeats(after.tokens, unknown, conditional.alphabet) & last[:, None]
        blank = after.tokens.masked_fill(deleted, conditional.alphabet.pad)
        after = after._replace(tokens=blank, confidence=after.confidence.masked_fill(deleted, 0.0))
        return after, info._replace(changed=info.changed | deleted, log_prob=info.log_prob.masked_fill(deleted, 0.0))
