"""Rewriting from noise: begin with random text and let the network correct it, a part of the cells at a time.

No mask is shown: the network sees a whole text, some of it wrong, and says what every cell should be. Each step redraws
a random share of the cells from its answer (Savinov et al. 2022, arXiv 2112.06749, SUNDAE). It wants a net that was
trained to correct its own text; one that never saw a wrong token copies it. With a conditional that leaves the cell's
own token out and a share near 0 it is random-scan Gibbs sampling from a random start.

`unrolled` takes the most probable tokens instead and lets the uncertain cells wait, the paper's idea of unrolling in
decoding, worked out here as follows. Every step remembers the best token and its log p for each cell. In the next step
all but the least certain `share` of the cells take their remembered token; the network reads that text; the uncertain
ones then take the best token of the new answer. So they are filled by a network that has seen the sure ones corrected.
The first step fills all cells from the answer to the noise.

The text may begin as masks instead; the first step then fills all of them, whatever the share.

A row ends before its last step where no later step could change it: when the network's best tokens are just what it
read, unrolled, or drawn greedily with share 1. With `min_steps` it also ends, from that step on, where a step left its
text as it was: a sign that it has settled, and no proof.
Shapes: B batch, L length, N cells asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.canvas import Canvas
from remask.core.choose import best, each, exactly
from remask.core.conditional import Conditional, Visible
from remask.core.draw import Categorical, Draw, Greedy
from remask.core.errors import BadInput
from remask.core.refill import commit, propose
from remask.core.sampler import Info, Law, masked, start
from remask.core.stream import Purpose, Stream

MOST_STEPS = 1_000_000


class RewritingState(NamedTuple):
    """A State with the last answer's best tokens [B, L] and their log p [B, L] float64, which `unrolled` needs."""

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor
    guess: Tensor
    certainty: Tensor


@dataclass(frozen=True)
class Sundae:
    """Starts from random text and rewrites a random share of the cells in each step."""

    steps: int = 32
    """Steps, a network call each; a row whose text can no longer change ends sooner."""
    share: float = 0.3
    """Chance that a cell is redrawn in a step (at least one is); unrolled: the share that waits for the new answer."""
    unrolled: bool = False
    """Take the most probable tokens, the uncertain ones after the network has seen the rest corrected."""
    start: str = "random"
    """What unknown cells begin with: random tokens, or mask."""
    min_steps: int = 0
    """Steps after which a row ends when a step changes nothing in it; 0 = only where no later step could."""
    draw: Draw = field(default_factory=Categorical)
    law = Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(f"rewriting came with {self.steps} steps: type --steps with 1 to {MOST_STEPS}.")
        if not 0 < self.share <= 1:
            raise BadInput(f"rewriting came with share {self.share}: type --share with a number above 0, at most 1.")
        if self.start not in STARTS:
            raise BadInput(f"rewriting knows no start '{self.start}': type --start {'|'.join(STARTS)}.")
        if self.min_steps < 0:
            raise BadInput(f"rewriting came with {self.min_steps} min steps: type --min-steps with 0 or more.")
        if self.unrolled and self.draw.joint:
            raise BadInput("unrolled rewriting takes best tokens and keeps no constraint: type --no-unrolled.")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> RewritingState:
        """Random text, or masks, in every unknown cell, whatever it held.

        Raises BadInput if the conditional says nothing of visible tokens.
        """
        if conditional.visible is Visible.NONE:
            raise BadInput(
                "rewriting came with a conditional that says nothing of visible tokens: give one whose `visible` is "
                "DENOISE or LEAVE_ONE_OUT."
            )
        noise = STARTS[self.start](stream, canvas.tokens.shape[1], conditional.alphabet)
        tokens = torch.where(canvas.unknown, noise, canvas.tokens)
        state = start(canvas)._replace(tokens=tokens)
        return RewritingState(*state, tokens, torch.zeros_like(tokens, dtype=torch.float64))

    def step(self, stream: Stream, state: RewritingState, conditional: Conditional) -> tuple[RewritingState, Info]:
        """Rewrite a part."""
        after, info = (self._unroll if self.unrolled else self._redraw)(stream, state, conditional)
        begun = (state.step > 0)[:, None]
        changed = torch.where(begun, info.changed, ~state.frozen)  # the random text is news too
        still = (after.tokens == state.tokens).all(1) & (after.step >= self.min_steps) & (self.min_steps > 0)
        return after._replace(done=after.done | still | (after.step >= self.steps)), info._replace(changed=changed)

    def _redraw(self, stream: Stream, state: RewritingState, conditional: Conditional) -> tuple[RewritingState, Info]:
        unknown = ~state.frozen
        uniform = stream.uniform(state.step, Purpose.WHERE, state.tokens.shape[1])
        chosen = each(uniform, unknown, torch.full_like(uniform[:, :1], self.share))
        chosen = chosen | exactly(uniform, unknown, torch.ones_like(state.step))  # adds one where none was chosen
        chosen = chosen | masked(state, conditional)
        if self.draw.joint:  # the noise keeps no constraint: all of it goes first, and later parts agree with the rest
            chosen = torch.where(state.step[:, None] == 0, unknown, chosen)
        proposal = propose(self.draw, stream, state, conditional, chosen)
        same = (proposal.tokens == state.tokens).all(1)
        settled = same if self.share == 1 and isinstance(self.draw, Greedy) else torch.zeros_like(same)
        return commit(state, proposal, chosen, settled)

    def _unroll(self, stream: Stream, state: RewritingState, conditional: Conditional) -> tuple[RewritingState, Info]:
        unknown = ~state.frozen
        waiting = torch.where(state.step == 0, unknown.sum(1), (unknown.sum(1) * self.share).ceil().long())
        waits = best(-state.certainty, unknown, waiting)
        taken = unknown & ~waits & (state.guess != state.tokens)
        seen = torch.where(taken, state.guess, state.tokens)
        read = propose(Greedy(), stream, state._replace(tokens=seen), conditional, unknown)
        tokens = torch.where(waits, read.tokens, seen)
        certainty = read.spread(read.written, 0.0)
        log_prob = torch.where(waits, certainty, torch.where(taken, state.certainty, 0.0))
        settled = (read.tokens == seen).all(1)  # asked again it would answer the same
        after = RewritingState(tokens, state.frozen, settled, state.step + 1, read.tokens, certainty)
        return after, Info(waits | taken, read.calls, log_prob)


def random_text(stream: Stream, length: int, alphabet: Alphabet) -> Tensor:
    """Uniformly random ids without a special meaning, [B, length]. Raises BadInput if there is none."""
    uniform = stream.uniform(0, Purpose.START, length)
    text = sorted(set(range(alphabet.size)) - alphabet.special - {alphabet.mask})
    if not text:
        raise BadInput("every id of the alphabet is special: random text needs a token that is not.")
    return torch.tensor(text, device=uniform.device)[(uniform * len(text)).long()]


def masks(stream: Stream, length: int, alphabet: Alphabet) -> Tensor:
    """Nothing but masks, [B, length]."""
    return torch.full((len(stream.seeds), length), alphabet.mask, device=stream.seeds.device)


STARTS: dict[str, Callable[[Stream, int, Alphabet], Tensor]] = {"random": random_text, "mask": masks}
