"""The bound of a net of blocks: each block's masked-diffusion bound given the blocks before it, added up.

    -log p(x) <= sum over blocks b of E[ (n_b / k_b) sum over masked cells i of b of -log p(x_i | x_b masked, x_<b) ]

(Arriola et al. 2025, arXiv 2503.09573, eq. 4, with exactly k_b of n_b cells masked, k_b uniform.) All blocks of a row
are asked in one pass. Each block's draws are spread evenly over its noise levels.
Shapes: R rows, L length, J blocks of a row.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.choose import blocks_of, in_each_block
from remask.core.stream import Purpose, Stream

GOLDEN = (math.sqrt(5) - 1) / 2  # a row's blocks get far-apart noise levels

LAW = "upper bound"


class InBlocks(Protocol):
    """A net that reads a row in blocks, masked and as it is (nets/blockwise.py)."""

    @property
    def block(self) -> int:
        """Cells of a block."""
        ...

    def hidden_in_blocks(self, noisy: Tensor, clean: Tensor, attend: Tensor | None = None) -> Tensor:
        """Hidden states [B, L, D] of the masked row."""
        ...

    def nll(self, hidden_at: Tensor, targets: Tensor, ban: int | None = None) -> Tensor:
        """-log p of the targets, [N]."""
        ...


@torch.no_grad()
def block_draws(
    net: InBlocks,
    tokens: Tensor,
    alphabet: Alphabet,
    stream: Stream,
    *,
    draws: int = 8,
    among: Tensor | None = None,
    batch: int = 32,
) -> Tensor:
    """One-draw estimates of each row's bound in nats, [R, draws] float64.

    tokens: [R, L]; stream: one seed a row; among: [R, L] bool, the cells that count (default all; padding is left out,
    not seen and never masked).
    """
    among = torch.ones_like(tokens, dtype=torch.bool) if among is None else among
    found = [
        _one_draw(net, tokens[index], among[index], alphabet, stream.rows(index), draw, draws)
        for draw in range(draws)
        for index in torch.arange(len(tokens), device=tokens.device).split(batch)
    ]
    return torch.cat(found).view(draws, len(tokens)).T


def _one_draw(
    net: InBlocks, tokens: Tensor, among: Tensor, alphabet: Alphabet, stream: Stream, draw: int, draws: int
) -> Tensor:
    sizes = blocks_of(among, net.block)
    turn = torch.arange(sizes.shape[1], dtype=torch.float64, device=tokens.device) * GOLDEN
    time = ((stream.uniform(draw, Purpose.TIME, sizes.shape[1]) + draw) / draws + turn) % 1.0
    count = (time * sizes).long().clamp(max=(sizes - 1).clamp(min=0)) + 1
    at = in_each_block(stream.uniform(draw, Purpose.MASK, tokens.shape[1]), among, count, net.block)
    weight = (sizes / count).repeat_interleave(net.block, 1)[:, : tokens.shape[1]]
    seen = None if bool(among.all()) else among
    hidden = net.hidden_in_blocks(torch.where(at, alphabet.mask, tokens), tokens, seen)
    nats = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    nats[at] = net.nll(hidden[at], tokens[at], alphabet.mask).double()
    return (nats * weight).sum(1)
