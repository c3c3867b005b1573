"""A masked model's modes: its most probable text at each length, found by exact search.

The length comes first, so no mode is empty; whether the choice of the length brings empty ones back is another question
(lab/modes.py; Yoshida et al. 2023, arXiv 2311.08817).
Shapes: N canvases, L length, V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.conditional import Conditional
from remask.core.decoder import Budget, Prefixes
from remask.core.stream import Stream
from remask.decoders.exact_mode import ExactMode


class Straight:
    """A masked model at one length as a CausalModel: each cell given those before it, the rest masked.

    Its texts have `length` cells and then an end, whose id is the mask's. Where the conditionals are those of one law
    the order does not matter; a trained net's texts are those of this order (lab/compatibility.py tells how much).
    """

    def __init__(self, conditional: Conditional, length: int):
        self.conditional, self.length = conditional, length
        self.size, self.end = conditional.alphabet.size, conditional.alphabet.mask
        self.window = length + 1

    def begin(self, prompt: Sequence[int]) -> Prefixes:
        """One canvas, its first cells written."""
        canvas = torch.full((1, self.length), self.end)
        canvas[0, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
        return self._asked(canvas, len(prompt))

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """The next cell written."""
        canvas, at = prefixes.cache
        canvas = canvas.clone()
        if at < self.length:
            canvas[:, at] = tokens
        return self._asked(canvas, at + 1)

    def rows(self, prefixes: Prefixes, index: Tensor) -> Prefixes:
        """Keep or repeat canvases."""
        canvas, at = prefixes.cache
        return Prefixes(prefixes.log_prob[index], None, (canvas[index], at))

    def _asked(self, canvas: Tensor, at: int) -> Prefixes:
        if at >= self.length:
            log_prob = torch.full((len(canvas), self.size), -torch.inf, dtype=torch.float64)
            log_prob[:, self.end] = 0
            return Prefixes(log_prob, None, (canvas, at))
        cells = torch.zeros_like(canvas, dtype=torch.bool)
        cells[:, at] = True
        log_prob = self.conditional(canvas, cells).double()
        return Prefixes(log_prob.index_fill(1, torch.tensor([self.end]), -torch.inf), None, (canvas, at))


class MaskedMode(NamedTuple):
    """The mode at a length. text: ids; log_prob: given the length, nats; certified: whether the search ended."""

    length: int
    text: list[int]
    log_prob: float
    certified: bool
    calls: int


def masked_modes(
    of_length: Callable[[int], Conditional], lengths: Iterable[int], *, beam: int = 5, nodes: int | None = None
) -> Iterator[MaskedMode]:
    """A masked model's mode at each length, by exact search; of_length: its conditional there (mostly the same one)."""
    for length in lengths:
        if length == 0:
            yield MaskedMode(0, [], 0.0, True, 0)
            continue
        model = Straight(of_length(length), length)
        budget = Budget(length + 1, nodes)
        found = ExactMode(beam=beam)(model, [[]], Stream.of(0, 1), budget)
        told = found.info
        text = found.texts(model.end)[0]
        yield MaskedMode(length, text, float(found.log_prob[0]), bool(told.certified[0]), int(told.calls[0]))
