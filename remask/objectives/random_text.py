"""Random tokens of text, for corruption.

Shapes: B batch, L length.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from remask.core.objective import Batch
from remask.core.stream import Purpose, Stream


@cache
def text_ids(size: int, special: frozenset[int]) -> Tensor:
    """Ids without a special meaning, in order."""
    with torch.inference_mode(False):
        return torch.tensor([i for i in range(size) if i not in special])


def random_tokens(batch: Batch, stream: Stream) -> Tensor:
    """A uniformly random token of text for every cell, [B, L]."""
    text = text_ids(batch.alphabet.size, batch.alphabet.special).to(batch.tokens.device)
    return text[(stream.uniform(0, Purpose.NOISE, batch.tokens.shape[1]) * len(text)).long()]
