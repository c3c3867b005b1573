"""Where a cell of a target stands, counted from both ends: tables that say nothing until they are trained.

The length is known before a parallel decoder begins, so the way to the end is known as well as the way from the start.
Shapes: B batch, L target length, D width, M longest target.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def places(from_start: nn.Embedding, from_end: nn.Embedding, length: int, attend: Tensor | None) -> Tensor:
    """The sum of both tables [M + 1, D] at every cell, [1 or B, L, D]; attend: [B, L] bool, False = padding."""
    longest = from_start.num_embeddings - 1
    cell = torch.arange(length, device=from_start.weight.device)
    last = (length if attend is None else attend.sum(1, keepdim=True)) - 1
    back = (last - cell).clamp(0, longest)
    return from_start(cell.clamp(max=longest)) + from_end(back)
