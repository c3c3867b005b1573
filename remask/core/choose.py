"""Which cells: small functions from uniforms to a bool mask.

Shapes: B batch, L length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exactly(uniform: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """A uniformly random subset of `count` [B] cells of the True cells of `among` [B, L]; all of them if fewer.

    uniform: [B, L] float64, one number a cell. The cells with the smallest numbers are taken.
    """
    key = torch.where(among, uniform, 2.0)
    rank = key.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (rank < count[:, None]) & among


def each(uniform: Tensor, among: Tensor, probability: Tensor) -> Tensor:
    """Every True cell of `among` [B, L] by itself with `probability` ([B, L], or [B, 1] to broadcast)."""
    return (uniform < probability) & among
