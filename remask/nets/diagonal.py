"""Where a target's cell looks in the source before it knows anything: near the same share of the way.

A parallel decoder begins with nothing but masks, so its cells can only ask by place, and relative positions within the
source do not tell a cell where its words are. A table that all layers share, over the distance between a source token
and the point that lies as far along the source as the cell along the target, gives cross-attention a diagonal to begin
with; it is an ordinary parameter. (Uniform copying of Gu et al. 2018, arXiv 1711.02281, section 3.1, as an attention
bias; the diagonal prior is that of Dyer et al. 2013, "fast_align", equation 2. Both lengths are known beforehand.)
Shapes: B batch, S source length, L target length, H heads, N buckets.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from remask.nets.relative import bucket, directed, halved

BUCKETS, FAR = 32, 128


def start(heads: int) -> Tensor:
    """A table [N, H] that begins with slopes 1, 1/2, 1/4 nats a token away from the diagonal, in turn."""
    return directed(BUCKETS, FAR, ["free"] * heads, halved(heads), two_ways=True, wrong=0.0)


def diagonal(table: Tensor, source: Tensor, length: int, attend: Tensor | None) -> Tensor:
    """The bias of cross-attention [B, H, L, S], -inf where the source is padding.

    table: [N, H]; source: [B, S] bool, False = padding; length: L; attend: [B, L] bool of the target, None = all cells.
    """
    rows = len(source)
    last = (source.new_full((rows,), length, dtype=torch.int64) if attend is None else attend.sum(1)) - 1
    reach, last = (source.sum(1) - 1)[:, None], last.clamp(min=1)[:, None]
    cell = torch.arange(length, device=source.device)
    point = (2 * cell * reach + last) // (2 * last)  # the nearest whole place, [B, L]
    offset = torch.arange(source.shape[1], device=source.device) - point[:, :, None]
    index = _buckets(str(source.device))[offset.clamp(-FAR, FAR) + FAR]
    return table[index].permute(0, 3, 1, 2).masked_fill(~source[:, None, None], -torch.inf)


@lru_cache(maxsize=8)
def _buckets(device: str) -> Tensor:
    with torch.inference_mode(False):  # what inference caches, training must be able to use
        return bucket(torch.arange(-FAR, FAR + 1, device=device), BUCKETS, FAR, two_ways=True)
