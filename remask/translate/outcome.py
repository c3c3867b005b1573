"""Outcome: what decoding leaves of a batch of sources, whichever way it was done.

Shapes: B sources.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outcome(NamedTuple):
    """The winning translations of B sources.

    tokens: B lists of text tokens, no special ids; log_prob: [B] float64, of the winners, nats; length: [B] int64,
    cells that were decoded (the length that the winner was given; from left to right: the tokens written); calls: [B]
    int64, decoder calls spent on the row, of its longest-running hypothesis: hypotheses run side by side.
    """

    tokens: list[list[int]]
    log_prob: Tensor
    length: Tensor
    calls: Tensor
