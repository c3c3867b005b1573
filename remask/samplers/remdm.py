"""Remasking diffusion: ancestral sampling in which written cells may be masked again.

From t to s < t a written cell is masked again with probability sigma <= min(1, (1 - alpha_s) / alpha_t), and a masked
one opens with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t): whatever sigma is, a share 1 - alpha_s is
masked at s, so that a net trained without remasking is asked what it was trained on (Wang et al. 2025, arXiv
2503.00307). As in `ancestral`, positions are chosen first and tokens drawn after. The strategies differ in sigma:

    cap       min(eta, the largest allowed)
    rescale   eta times the largest allowed
    conf      the largest allowed, shared out over a row's written cells by softmax(-p), p the probability that a token
              had when it was written; no cell above eta. Masked cells have no share: they open as in `ancestral`, and
              slightly more than 1 - alpha_s stays masked
    loop      alpha rises to `loop_alpha` until `loop_on`, stays there until `loop_off` while cells are masked again
              as by cap, then rises to 1; nothing is masked again outside the middle

The published scripts, for 1024 cells of text, take eta 0.008 for cap, 0.015 for rescale, 0.02 for loop, and no bound
for conf (eta 1 here). A cell is masked again up to eta * steps times, so more steps want a smaller eta. Where the
conditional is exact, remasking only costs: cells that open again share their steps with others, and cap, rescale and
loop break more of the pairs that should agree than ancestral sampling in as many steps (the tests have the figures). It
pays where the net errs, and errs less with more in sight.
Shapes: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.choose import each
from remask.core.conditional import Conditional
from remask.core.draw import Categorical, Draw
from remask.core.errors import BadInput
from remask.core.refill import refill
from remask.core.sampler import Info, Law, masked, start
from remask.core.schedule import SCHEDULES
from remask.core.stream import Purpose, Stream

MOST_STEPS = 1_000_000
ROUNDING = 1e-9  # a step that ends at loop_off ends there, whatever 1 - 19/20 is


class RemaskingState(NamedTuple):
    """A State with the probability that every token had when it was written, [B, L] float64 (1 where none was)."""

    tokens: Tensor
    frozen: Tensor
    done: Tensor
    step: Tensor
    confidence: Tensor


class Move(NamedTuple):
    """One step of the time grid, [B, 1] float64 each: its ends, alpha at them, the largest sigma allowed."""

    t: Tensor
    s: Tensor
    alpha_t: Tensor
    alpha_s: Tensor
    most: Tensor


@dataclass(frozen=True)
class ReMDM:
    """Ancestral sampling that masks some written cells again and so may mend them."""

    steps: int = 256
    """Time steps T, all of them taken; a row pays a network call only for steps in which a cell of it opens."""
    strategy: str = "cap"
    """How often cells are masked again: cap, rescale, conf or loop."""
    eta: float = 0.02
    """Largest chance a step that a written cell is masked again (rescale: as a share of what is allowed); 0 = never."""
    schedule: str = "linear"
    """Noise schedule: linear, log_linear or cosine."""
    loop_on: float = 0.55
    """loop: the time, from 1 down, at which remasking begins."""
    loop_off: float = 0.05
    """loop: the time at which it ends."""
    loop_alpha: float = 0.9
    """loop: the share of cells that is written meanwhile."""
    draw: Draw = field(default_factory=Categorical)

    @property
    def law(self) -> Law:
        """LIMIT without remasking, if tokens are drawn as they are; cells masked again open in each other's company."""
        return Law.LIMIT if self.eta == 0 and self.draw.faithful else Law.HEURISTIC

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(f"remasking came with {self.steps} steps: type --steps with 1 to {MOST_STEPS}.")
        if self.strategy not in SIGMAS:
            raise BadInput(f"there is no strategy '{self.strategy}': type --strategy {'|'.join(SIGMAS)}.")
        if self.schedule not in SCHEDULES:
            raise BadInput(f"there is no schedule '{self.schedule}': type --schedule {'|'.join(SCHEDULES)}.")
        if not 0 <= self.eta <= 1:
            raise BadInput(f"remasking came with eta {self.eta}: type --eta with a probability from 0 to 1.")
        if not 0 < self.loop_off < self.loop_on < 1:
            raise BadInput(
                f"the loop runs from time {self.loop_on} down to {self.loop_off}: "
                "type --loop-on above --loop-off, both between 0 and 1."
            )
        if not 0 < self.loop_alpha < 1:
            raise BadInput(f"the loop came with alpha {self.loop_alpha}: type --loop-alpha with a share in (0, 1).")

    def init(self, stream: Stream, canvas: Canvas, conditional: Conditional) -> RemaskingState:
        """Time 1."""
        del stream, conditional
        return RemaskingState(*start(canvas), torch.ones_like(canvas.tokens, dtype=torch.float64))

    def move(self, step: Tensor) -> Move:
        """The step of the grid after `step` [B] of them."""
        t, s = 1 - step[:, None].double() / self.steps, 1 - (step[:, None] + 1).double() / self.steps
        alpha = PATHS.get(self.strategy, _plain)
        alpha_t, alpha_s = alpha(self, t), alpha(self, s)
        most = (1 - alpha_s) / alpha_t.clamp(min=torch.finfo(torch.float64).tiny)  # alpha is 0 at t = 1
        return Move(t, s, alpha_t, alpha_s, most.clamp(0, 1))

    def rates(self, step: Tensor, confidence: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """The chance that a masked cell opens and that a written one is masked again, each [B, L] or [B, 1].

        step: [B]; confidence: [B, L] float64; written: [B, L] bool. The last step opens all and masks nothing.
        """
        move, last = self.move(step), step[:, None] + 1 >= self.steps
        sigma = torch.where(last, 0.0, SIGMAS[self.strategy](self, move, confidence, written))
        opens = (move.alpha_s - (1 - sigma) * move.alpha_t) / (1 - move.alpha_t)
        return torch.where(last, 1.0, opens), sigma

    def step(self, stream: Stream, state: RemaskingState, conditional: Conditional) -> tuple[RemaskingState, Info]:
        """One step of the grid: open cells, and mask others that were written before it."""
        cells = masked(state, conditional)
        written = ~cells & ~state.frozen
        opens, sigma = self.rates(state.step, state.confidence, written)
        length = state.tokens.shape[1]
        chosen = each(stream.uniform(state.step, Purpose.WHERE, length), cells, opens)
        again = each(stream.uniform(state.step, Purpose.REMASK, length), written, sigma)
        after, info = refill(self.draw, stream, state, conditional, chosen, cells)
        tokens = torch.where(again, conditional.alphabet.mask, after.tokens)
        confidence = torch.where(chosen, info.log_prob.exp(), state.confidence)
        after = after._replace(tokens=tokens, confidence=confidence, done=after.step >= self.steps)
        return after, info._replace(changed=info.changed | again)


def _plain(sampler: ReMDM, t: Tensor) -> Tensor:
    return SCHEDULES[sampler.schedule].alpha(t)


def _held(sampler: ReMDM, t: Tensor) -> Tensor:
    """Alpha of the loop: the schedule as far as `loop_alpha`, a rest, and the schedule over what is left."""
    alpha, on, off, hold = SCHEDULES[sampler.schedule].alpha, sampler.loop_on, sampler.loop_off, sampler.loop_alpha
    rising = hold * alpha(((t - on) / (1 - on)).clamp(0, 1))
    ending = hold + (1 - hold) * alpha((t / off).clamp(0, 1))
    return torch.where(t >= on, rising, torch.where(t >= off, hold, ending))


PATHS: dict[str, Callable[[ReMDM, Tensor], Tensor]] = {"loop": _held}
"""Alpha as a function of time, where it is not simply the schedule's."""

Sigma = Callable[[ReMDM, Move, Tensor, Tensor], Tensor]
"""A sampler, a step, confidences and written cells [B, L] to the chance of being masked again, [B, L] or [B, 1]."""


def _cap(sampler: ReMDM, move: Move, confidence: Tensor, written: Tensor) -> Tensor:
    del confidence, written
    return move.most.clamp(max=sampler.eta)


def _rescale(sampler: ReMDM, move: Move, confidence: Tensor, written: Tensor) -> Tensor:
    del confidence, written
    return sampler.eta * move.most


def _conf(sampler: ReMDM, move: Move, confidence: Tensor, written: Tensor) -> Tensor:
    weight = torch.where(written, (-confidence).exp(), 0.0)
    share = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)  # no weight is below 1/e: only an empty row is
    return (move.most * share).clamp(max=sampler.eta)


def _loop(sampler: ReMDM, move: Move, confidence: Tensor, written: Tensor) -> Tensor:
    inside = (move.t <= sampler.loop_on + ROUNDING) & (move.s >= sampler.loop_off - ROUNDING)
    return torch.where(inside, _cap(sampler, move, confidence, written), 0.0)


SIGMAS: dict[str, Sigma] = {"cap": _cap, "rescale": _rescale, "conf": _conf, "loop": _loop}
