"""Conditional: p(x_i | the visible rest), with the question already fixed.

All that a sampler or a metric ever sees of a model: no tokenizer, no config, no device.
Shapes: B batch, L length, V vocabulary, N cells asked for.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from torch import Tensor

from remask.core.alphabet import Alphabet


class Visible(Enum):
    """What a conditional says at cells that are not masked."""

    NONE = "none"  # nothing meaningful
    DENOISE = "denoise"  # a distribution that has seen the token in the cell
    LEAVE_ONE_OUT = "leave one out"  # p(x_i | the rest), the cell's own token unseen


class Conditional(Protocol):
    """log p at the cells asked for."""

    @property
    def alphabet(self) -> Alphabet:
        """Ids with a meaning."""
        ...

    @property
    def visible(self) -> Visible:
        """What it says at cells that are not masked."""
        ...

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Log p: [B, L, V], or [N, V] for the N True cells of the bool mask `at` [B, L]; the mask id has -inf."""
        ...

    def rows(self, index: Tensor) -> Conditional:
        """The same law for some of the rows: finished rows leave, beams repeat. `index`: int64 [B']."""
        ...

    def given(self, tokens: Tensor, upto: Tensor) -> Conditional:
        """The same law with the cells before `upto` [B] settled (a cache); the parent stays valid."""
        ...
