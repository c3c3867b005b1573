"""Populations: laws over texts of several lengths that are enumerated, drawn from, and spoken from left to right.

Each text's probability is known, so that the mode, the entropy and the next token's law are facts and not estimates
(Yoshida et al. 2023, arXiv 2311.08817, section 2, works with such mixtures of clean and bad texts).
Shapes: A symbols, L length, N texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from remask.core.decoder import Spoken
from remask.core.stream import Purpose, Stream
from remask.lab.laws import Law, markov_chain


class Texts:
    """A law over texts of several lengths. ends[L]: probability of every text of L symbols, [A^L] float64."""

    def __init__(self, symbols: int, ends: Sequence[Tensor]):
        self.symbols, self.ends = symbols, list(ends)

    def mixed(self, other: Texts, share: float) -> Texts:
        """The law that is `other` with probability `share`."""
        return Texts(self.symbols, [(1 - share) * a + share * b for a, b in zip(self.ends, other.ends, strict=True)])

    @cached_property
    def whole(self) -> Tensor:
        """Every text, the shorter first, [N]."""
        return torch.cat(self.ends)

    @property
    def best(self) -> float:
        """Probability of the mode."""
        return float(self.whole.max())

    @property
    def entropy(self) -> float:
        """In bits."""
        return abs(float(torch.xlogy(self.whole, self.whole).sum())) / math.log(2)

    @property
    def lengths(self) -> Tensor:
        """p(L), [longest + 1]."""
        return torch.stack([part.sum() for part in self.ends])

    def text(self, number: int) -> tuple[int, ...]:
        """The text of a place in `whole`."""
        for length, part in enumerate(self.ends):
            if number < len(part):
                return tuple(number // self.symbols**place % self.symbols for place in reversed(range(length)))
            number -= len(part)
        raise IndexError(number)

    @property
    def mode(self) -> tuple[int, ...]:
        """By enumeration; the shortest of several."""
        return self.text(int(self.whole.argmax()))

    def sample(self, count: int, seed: int) -> Tensor:
        """Places in `whole`, [count]."""
        uniform = Stream.of(seed, count).uniform(0, Purpose.START, 1)[:, 0]
        edges = self.whole.cumsum(0)
        last = int(torch.nonzero(self.whole)[-1])
        return torch.searchsorted(edges, uniform * edges[-1], right=True).clamp(max=last)

    def spoken(self) -> Spoken:
        """The same law from left to right: symbols are 0..A-1, the end is A."""
        below = [torch.zeros(self.symbols ** len(self.ends), dtype=torch.float64)]
        for part in reversed(self.ends):  # mass of all texts that begin so
            below.append(part + below[-1].view(-1, self.symbols).sum(1))
        below = below[::-1]

        def next_log_probs(prefix: tuple[int, ...]) -> Tensor:
            place = 0
            for symbol in prefix:
                place = place * self.symbols + symbol
            depth = len(prefix)
            if depth >= len(self.ends) or not below[depth][place] > 0:  # no such text; a search may ask all the same
                return torch.tensor([-math.inf] * self.symbols + [0.0], dtype=torch.float64)
            ahead = below[depth + 1][place * self.symbols : (place + 1) * self.symbols]
            return (torch.cat([ahead, self.ends[depth][place : place + 1]]) / below[depth][place]).log()

        return Spoken(next_log_probs, self.symbols)

    def law(self, length: int) -> Law:
        """Of the texts of one length, as a masked model knows it: BadInput where there are none."""
        return Law(f"texts of {length}", self.ends[length].view([self.symbols] * length))


def clean(symbols: int, shortest: int, longest: int, stay: float) -> Texts:
    """Texts of shortest..longest symbols, each length as probable; a symbol repeats the one before with p = stay."""
    start = torch.full((symbols,), 1 / symbols, dtype=torch.float64)
    move = torch.full((symbols, symbols), (1 - stay) / (symbols - 1), dtype=torch.float64).fill_diagonal_(stay)
    ends = [torch.zeros(symbols**length, dtype=torch.float64) for length in range(shortest)]
    ends += [markov_chain(start, move, length).joint for length in range(shortest, longest + 1)]
    share = 1 / (longest + 1 - shortest)
    return Texts(symbols, [share * part for part in ends])


def noise(symbols: int, count: int, longest: int) -> Texts:
    """The `count` shortest texts, each as probable: for 1 the empty text."""
    ends = []
    for length in range(longest + 1):
        part = torch.zeros(symbols**length, dtype=torch.float64)
        part[: max(count, 0)] = 1
        count -= len(part)
        ends.append(part)
    total = sum(float(part.sum()) for part in ends)
    return Texts(symbols, [part / total for part in ends])
