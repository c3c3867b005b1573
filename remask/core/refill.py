"""Refill: what every unmasking sampler does. Ask, draw, write, count.

Samplers that choose their cells by what the network says `propose` at all of them and `commit` a few; those that choose
first `refill`.
Shapes: B batch, L length, N cells asked for, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.conditional import Conditional
from remask.core.draw import Draw
from remask.core.sampler import Info, ask
from remask.core.stream import Purpose, Stream


class Proposal(NamedTuple):
    """What was asked and drawn, and not yet written.

    at: [B, L] bool, the N cells asked for; log_prob: [N, V], in the order of those cells; tokens: [B, L], the canvas
    with a drawn token in each of them; calls: [B] int64.
    """

    at: Tensor
    log_prob: Tensor
    tokens: Tensor
    calls: Tensor

    def spread(self, values: Tensor, fill: float) -> Tensor:
        """One value a cell asked for, [N], as [B, L] float64 with `fill` elsewhere."""
        wide = torch.full(self.at.shape, fill, dtype=torch.float64, device=self.at.device)
        wide[self.at] = values.double()
        return wide

    @property
    def written(self) -> Tensor:
        """Log p of the drawn tokens, [N] float64."""
        return self.log_prob.gather(1, self.tokens[self.at][:, None])[:, 0].double()


def uniforms(draw: Draw, stream: Stream, step: Tensor, at: Tensor) -> Tensor:
    """What a draw needs at the N cells of `at` [B, L]: [N] float64, or [0] for one that leaves nothing to chance."""
    if getattr(draw, "certain", False):
        return torch.empty(0, dtype=torch.float64, device=at.device)
    return stream.uniform(step, Purpose.TOKEN, at.shape[1])[at]


def propose(draw: Draw, stream: Stream, state: Any, conditional: Conditional, at: Tensor) -> Proposal:
    """Draw a token for every cell of `at` [B, L], one network call for each row that has one."""
    log_prob, calls = ask(conditional, state.tokens, at)
    uniform = uniforms(draw, stream, state.step, at)
    tokens = state.tokens.clone()
    tokens[at] = draw(log_prob, uniform, at, state.tokens)
    return Proposal(at, log_prob, tokens, calls)


def commit(state: Any, proposal: Proposal, chosen: Tensor, done: Tensor) -> tuple[Any, Info]:
    """Write the proposal's tokens at the `chosen` cells [B, L], a part of those asked for; `done` [B] ends rows."""
    tokens = torch.where(chosen, proposal.tokens, state.tokens)
    log_prob = torch.where(chosen, proposal.spread(proposal.written, 0.0), 0.0)
    return state._replace(tokens=tokens, done=done, step=state.step + 1), Info(chosen, proposal.calls, log_prob)


def refill(
    draw: Draw, stream: Stream, state: Any, conditional: Conditional, chosen: Tensor, masked: Tensor
) -> tuple[Any, Info]:
    """Draw tokens for the `chosen` cells [B, L] out of the `masked` ones, and end the rows that have none left.

    A joint draw (a constraint) is asked about every masked cell of the rows that open any, but only the chosen cells
    are written.
    """
    at = masked & chosen.any(1, keepdim=True) if draw.joint else chosen
    proposal = propose(draw, stream, state, conditional, at)
    return commit(state, proposal, chosen, ~(masked & ~chosen).any(1))
