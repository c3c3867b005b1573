"""Refill: what every unmasking sampler does once it has chosen its cells. Ask, draw, write, count.

Shapes: B batch, L length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from remask.core.conditional import Conditional
from remask.core.draw import Draw
from remask.core.sampler import Info, State, ask
from remask.core.stream import Purpose, Stream


def refill(
    draw: Draw, stream: Stream, state: State, conditional: Conditional, chosen: Tensor, masked: Tensor
) -> tuple[State, Info]:
    """Draw tokens for the `chosen` cells [B, L] out of the `masked` ones, and end the rows that have none left.

    A joint draw (a constraint) is asked about every masked cell of the rows that open any, but only the chosen cells
    are written.
    """
    at = masked & chosen.any(1, keepdim=True) if draw.joint else chosen
    log_prob, calls = ask(conditional, state.tokens, at)
    uniform = stream.uniform(state.step, Purpose.TOKEN, state.tokens.shape[1])[at]
    tokens = state.tokens.clone()
    tokens[at] = draw(log_prob, uniform, at)
    tokens = torch.where(chosen, tokens, state.tokens)
    done = ~(masked & ~chosen).any(1)
    return state._replace(tokens=tokens, done=done, step=state.step + 1), Info(chosen, calls)
