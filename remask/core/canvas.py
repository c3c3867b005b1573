"""Canvas: tokens, and which of them are given. Prompting, infilling and continuation are canvases.

Shapes: B batch, L length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.core.errors import BadInput


class Canvas(NamedTuple):
    """Rows to be filled.

    tokens: [B, L] int64 ids.
    frozen: [B, L] bool; True = given (prompt, context, padding), never rewritten.
    """

    tokens: Tensor
    frozen: Tensor

    @property
    def unknown(self) -> Tensor:
        """[B, L] bool: the cells that a sampler may write."""
        return ~self.frozen

    def rows(self, index: Tensor) -> Canvas:
        """Keep or repeat rows."""
        return Canvas(self.tokens[index], self.frozen[index])


def blank(rows: int, length: int, alphabet: Alphabet, device: torch.device | str = "cpu") -> Canvas:
    """Nothing but masks, [rows, length]."""
    tokens = torch.full((rows, length), alphabet.mask, dtype=torch.int64, device=device)
    return Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool))


def infill(tokens: Tensor, alphabet: Alphabet) -> Canvas:
    """Every mask in `tokens` [B, L] is unknown, everything else is given."""
    return Canvas(tokens, tokens != alphabet.mask)


def prompted(
    prompt: list[int], rows: int, length: int, alphabet: Alphabet, device: torch.device | str = "cpu"
) -> Canvas:
    """The prompt's ids first (masks in it stay open), masks after it, [rows, length].

    Raises BadInput when the prompt is longer than the canvas.
    """
    if len(prompt) > length:
        raise BadInput(
            f"the prompt has {len(prompt)} tokens but the canvas only {length}: "
            f"shorten the prompt or type --length {len(prompt)} or more."
        )
    tokens = blank(rows, length, alphabet, device).tokens
    tokens[:, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64, device=device)
    return infill(tokens, alphabet)
