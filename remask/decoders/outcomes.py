"""What a classifier tells apart after a prefix, so that a search learns how likely its attribute is.

Yes or no; or, for lengths, how many tokens are still to come, counted when they are few and binned when they are many
(Yoshida, Goyal & Gimpel 2024, arXiv 2311.08817), so that one classifier serves every length.
Shapes: N prefixes, K next tokens, C outcomes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from remask.core.errors import BadInput


class Outcomes(Protocol):
    """What a classifier tells apart after a prefix. size: C."""

    @property
    def size(self) -> int:
        """C."""
        ...

    def labels(self, text: Sequence[int], ended: bool) -> list[int]:
        """The outcome after 1, 2 .. all tokens of a finished text."""
        ...

    def log_prob(self, scores: Tensor, written: int) -> Tensor:
        """Log p of the attribute, [N, K], of log p of the outcomes [N, K, C], for prefixes of `written` tokens."""
        ...


@dataclass(frozen=True)
class YesNo:
    """Whether the finished text has the attribute: 1 or 0."""

    attribute: Callable[[Sequence[int], bool], bool]
    longest: int
    size = 2

    def labels(self, text: Sequence[int], ended: bool) -> list[int]:
        """The same after every token."""
        return [int(self.attribute(text, ended))] * len(text)

    def log_prob(self, scores: Tensor, written: int) -> Tensor:
        """Log p of yes, [N, K]."""
        del written
        return scores[..., 1]


@dataclass(frozen=True)
class Remaining:
    """How many tokens are still to come before the end, or that the budget comes first (the last outcome).

    tokens: the length that is asked for, None for any that ends; longest: budget of a text, its end counted;
    exact: numbers below it have an outcome each, the bins above grow by a quarter.
    """

    tokens: int | None
    longest: int
    exact: int

    @property
    def edges(self) -> list[int]:
        """The least number of each bin, and one more than the largest of the last."""
        found = list(range(min(self.exact, self.longest)))
        at = len(found)
        while at < self.longest:
            found.append(at)
            at += max(1, at // 4)
        return [*found, self.longest]

    @property
    def size(self) -> int:
        """Bins, and the budget."""
        return len(self.edges)

    def labels(self, text: Sequence[int], ended: bool) -> list[int]:
        """The bin of what is still to come, after 1, 2 .. all tokens."""
        edges = self.edges
        if not ended:
            return [len(edges) - 1] * len(text)
        return [bisect_right(edges, len(text) - written) - 1 for written in range(1, len(text) + 1)]

    def log_prob(self, scores: Tensor, written: int) -> Tensor:
        """Log p of the length, [N, K]; a bin's probability is spread evenly over its numbers.

        All hypotheses of a search are as long as each other, so what the spread gets wrong is the same for all of them.
        """
        if self.tokens is None:
            return scores[..., :-1].logsumexp(-1)
        edges, rest = self.edges, self.tokens - written
        if rest < 0:
            return torch.full_like(scores[..., 0], -torch.inf)
        place = bisect_right(edges, rest) - 1
        if place >= len(edges) - 1:
            raise BadInput(
                f"a text of {self.tokens} tokens was asked of a classifier that knows texts of up to "
                f"{self.longest - 1}: ask for a shorter one, or fit a classifier with more --tokens."
            )
        return scores[..., place] - math.log(edges[place + 1] - edges[place])
