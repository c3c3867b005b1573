"""Block diffusion: blocks from left to right, masked diffusion inside each (Arriola et al. 2025, arXiv 2503.09573).

    -log p(x) <= sum over blocks b of E[ (n_b / k_b) sum over masked cells i of b of -log p(x_i | x_b masked, x_<b) ]

for blocks of n_b cells, of which k_b, uniform on 1..n_b, are masked: the bound of each block given those before it, as
they are. One block of the whole row is masked diffusion, blocks of one cell are the chain rule. The net reads a row
twice in one pass, masked and as it is (nets/blockwise.py).

With --clip-low and --clip-high the share of masks in a block is drawn from a part of (0, 1] only (section 4 there): the
loss is then no bound, its gradient varies less, and a net is judged by the bound all the same. `clips` (`remask
evaluate --clips`) weighs parts by the variance of the loss on held-out rows, which is what to choose by.
Shapes: B batch, L length, J blocks of a row, S cells of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from remask.core.choose import blocks_of, in_each_block
from remask.core.errors import BadInput
from remask.core.objective import Batch, Loss, Question, Term
from remask.core.stream import Purpose, Stream
from remask.nets.blockwise import BlockNet, in_blocks

GOLDEN = (math.sqrt(5) - 1) / 2  # neighbouring blocks of a row get far-apart noise levels


@dataclass(frozen=True)
class BlockDiffusion:
    """Block diffusion (Arriola et al. 2025): left to right over blocks, masked diffusion inside; exact cache."""

    block: int = 16
    """Cells of a block; where it does not divide --length, a row's last block is shorter."""
    clip_low: float = 0.0
    """Least share of a block's cells that is masked in training."""
    clip_high: float = 1.0
    """Largest share of a block's cells that is masked in training; below 1 the training loss is not the bound."""
    stratified: bool = True
    """Spread the noise levels evenly over the global batch instead of drawing each block's by itself."""

    causal = False
    law = "upper bound"
    writes = True

    def __post_init__(self) -> None:
        if self.block < 1:
            raise BadInput(f"--block came as {self.block}: a block has 1 cell or more.")
        if not 0 <= self.clip_low < self.clip_high <= 1:
            raise BadInput(
                f"--clip-low came as {self.clip_low} and --clip-high as {self.clip_high}: type two shares, the first "
                "below the second."
            )

    @property
    def bounds(self) -> bool:
        """Whether the loss is a bound on -log p per token."""
        return self.clip_low == 0 and self.clip_high == 1

    @property
    def weighed(self) -> BlockDiffusion:
        """The objective by which a net is judged: all noise levels."""
        return replace(self, clip_low=0.0, clip_high=1.0)

    def furnish(self, net: Any, *, seed: int = 0, generator: Any = None) -> BlockNet:
        """A masked ModernBERT, read in blocks; raises BadInput for a net that cannot be."""
        del generator
        return in_blocks(net, self.block, seed)

    def corrupt(self, batch: Batch, stream: Stream) -> Question:
        """Mask cells of every block; `stream` has one seed a row."""
        everywhere = torch.ones_like(batch.tokens, dtype=torch.bool)
        sizes = blocks_of(everywhere, self.block)
        count = self._counts(sizes, self._times(batch, stream, sizes.shape[1]))
        at = in_each_block(stream.uniform(0, Purpose.MASK, everywhere.shape[1]), everywhere, count, self.block)
        weight = (sizes / count).repeat_interleave(self.block, 1)[:, : everywhere.shape[1]]
        return Question(
            tokens=torch.where(at, batch.alphabet.mask, batch.tokens),
            targets=batch.tokens,
            at=at,
            weight=weight.float(),
            documents=torch.zeros_like(batch.documents),  # a row is one stream, as in mdlm
            counts=torch.tensor([at.numel()], dtype=torch.float64, device=at.device),
            alphabet=batch.alphabet,
        )

    def _counts(self, sizes: Tensor, time: Tensor) -> Tensor:
        """Cells to mask in blocks of `sizes`, uniform on what the shares allow, all [B, J]; never none."""
        low = (self.clip_low * sizes).ceil().clamp(min=1)
        high = torch.maximum((self.clip_high * sizes).floor(), low)
        return (low + (time * (high - low + 1)).floor()).clamp(max=high).long()

    def _times(self, batch: Batch, stream: Stream, blocks: int) -> Tensor:
        """A noise level in [0, 1) for every block, [B, J] float64."""
        time = stream.uniform(0, Purpose.TIME, blocks)
        if not self.stratified:
            return time
        turn = torch.arange(blocks, dtype=torch.float64, device=time.device) * GOLDEN
        return ((batch.slot[:, None] + time) / batch.slots + turn) % 1.0

    def __call__(self, net: Any, question: Question, stream: Stream) -> Loss:
        """Weighted cross-entropy of the masked cells, summed; the head sees masked cells only."""
        del stream
        at = question.at
        hidden = net.hidden_in_blocks(question.tokens, question.targets)[at]
        total = net.total_nll(hidden, question.targets[at], question.weight[at], question.alphabet.mask)
        return Loss((Term("block_diffusion", total, question.counts[0]),))


class Clip(NamedTuple):
    """A part of the noise levels. nats: mean loss a token; variance: of the loss of a row's tokens, over its noise."""

    low: float
    high: float
    nats: float
    variance: float


@torch.no_grad()
def clips(
    net: BlockNet, batch: Batch, parts: Sequence[tuple[float, float]], draws: int = 8, seed: int = 0
) -> list[Clip]:
    """How much the loss of held-out rows varies with the noise, for each part of the noise levels, least first.

    batch: rows that nothing was learned from; draws: of the noise, two or more, the same for all parts.
    """
    found = []
    for low, high in parts:
        objective = BlockDiffusion(net.block, low, high, stratified=False)
        nats = []
        for draw in range(draws):
            stream = Stream.of(seed, torch.arange(len(batch.tokens), device=batch.tokens.device)).child(draw)
            question = objective.corrupt(batch, stream)
            hidden = net.hidden_in_blocks(question.tokens, question.targets)[question.at]
            each = torch.zeros(question.at.shape, dtype=torch.float64, device=hidden.device)
            each[question.at] = net.nll(hidden, question.targets[question.at], batch.alphabet.mask).double()
            nats.append((each * question.weight).mean(1))
        rows = torch.stack(nats)  # [draws, B]
        found.append(Clip(low, high, float(rows.mean()), float(rows.var(0).mean())))
    return sorted(found, key=lambda clip: clip.variance)
