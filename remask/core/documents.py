"""Documents within rows: where they begin, and positions that restart there.

Shapes: B batch, L length.
"""

from __future__ import annotations

import torch
from torch import Tensor


def starts(documents: Tensor) -> Tensor:
    """True at the first cell of every document (and of every row), [B, L] bool."""
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return first


def positions(documents: Tensor) -> Tensor:
    """Position of each cell within its document, [B, L] int64."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    return index - torch.where(starts(documents), index, 0).cummax(1).values
