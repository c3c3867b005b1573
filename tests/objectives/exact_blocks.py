"""The net of blocks that knows the truth of an enumerable law, and what its bound must say.

Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from tests.oracle import LawNet, Oracle


class LawBlocks(LawNet):
    """p(x_i | the visible cells of its block, the blocks before it), exactly."""

    def __init__(self, oracle: Oracle, block: int):
        super().__init__(oracle)
        self.oracle, self.block = oracle, block

    def hidden_in_blocks(self, noisy: Tensor, clean: Tensor, attend: Tensor | None = None) -> Tensor:
        """Log p of every id at every cell, [B, L, V]."""
        assert attend is None
        parts = []
        for begin in range(0, noisy.shape[1], self.block):
            canvas = torch.full_like(noisy, self.oracle.alphabet.mask)
            canvas[:, :begin] = clean[:, :begin]
            canvas[:, begin : begin + self.block] = noisy[:, begin : begin + self.block]
            parts.append(self.oracle(canvas)[:, begin : begin + self.block])
        return torch.cat(parts, 1)


def blind(oracle: Oracle, block: int) -> LawBlocks:
    """A planted bug: blocks do not see those before them."""
    net = LawBlocks(oracle, block)
    whole = net.hidden_in_blocks
    net.hidden_in_blocks = lambda noisy, clean, attend=None: whole(  # type: ignore[method-assign]
        noisy, torch.full_like(clean, oracle.alphabet.mask), attend
    )
    return net


def peeking(oracle: Oracle, block: int) -> LawBlocks:
    """A planted bug: a cell sees its own block as it is, so that what is asked is known."""
    net = LawBlocks(oracle, block)
    whole = net.hidden_in_blocks
    net.hidden_in_blocks = lambda noisy, clean, attend=None: whole(  # type: ignore[method-assign]
        torch.where((torch.arange(noisy.shape[1]) % block == 0) & (noisy == oracle.alphabet.mask), noisy, clean),
        clean,
        attend,
    )
    return net


def bound_of(oracle: Oracle, tokens: Tensor, block: int) -> Tensor:
    """The bound of each row, [B] nats, by summing over all subsets of every block."""
    net, total = LawBlocks(oracle, block), torch.zeros(len(tokens), dtype=torch.float64)
    for begin in range(0, tokens.shape[1], block):
        cells = range(begin, min(begin + block, tokens.shape[1]))
        for count in range(1, len(cells) + 1):
            subsets = list(combinations(cells, count))
            for subset in subsets:
                noisy = tokens.clone()
                noisy[:, list(subset)] = oracle.alphabet.mask
                log_prob = net.hidden_in_blocks(noisy, tokens)[:, list(subset)]
                nats = -log_prob.gather(2, tokens[:, list(subset)][..., None])[..., 0].sum(1)
                total += nats / count / len(subsets)  # n / k, each k with probability 1 / n
    return total
