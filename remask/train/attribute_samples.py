"""Texts that a left-to-right model writes itself, with its state before every token: what a classifier learns from.

Draws are pure functions of the seed and the number of the text, whatever is drawn beside it.
Shapes: N texts, M tokens that were read, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.decoder import Budget, CausalModel, Prefixes
from remask.core.draw import inverse_cdf
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream
from remask.decoders.conditional_beam import ConditionalBeam

ROWS = 256  # texts that are drawn together


class Drawn(NamedTuple):
    """N texts, and what the model thought along the way.

    texts, ended: [N]; row: [M] which text; written: [M] its tokens with this one; hidden: [M, D] before it was read.
    """

    texts: list[list[int]]
    ended: list[bool]
    row: Tensor
    written: Tensor
    hidden: Tensor


def samples(
    model: CausalModel, prompts: Sequence[Sequence[int]], count: int, longest: int, seed: int
) -> Iterator[Drawn]:
    """So many texts, shared out among the prompts; longest: budget of a text, its end counted."""
    number = torch.arange(count)
    for at, prompt in enumerate(prompts):
        if at >= count:
            break
        root = model.begin(prompt)
        for rows in number[number % len(prompts) == at].split(ROWS):
            prefixes = model.rows(root, torch.zeros(len(rows), dtype=torch.int64))
            yield draw(model, prefixes, [[] for _ in rows], Stream.of(seed, rows), longest)


def visits(
    model: CausalModel, search: ConditionalBeam, prompts: Sequence[Sequence[int]], longest: int, seed: int
) -> Iterator[Drawn]:
    """A text drawn from each prefix that a search visits: what it asks about, and outcomes that are the model's own."""
    for at, prompt in enumerate(prompts):
        own = Stream.of(seed, torch.tensor([at])).child(1)
        for step in search.search(model, prompt, Budget(longest)):
            texts = step.texts.tolist()
            if texts and texts[0]:
                each = own.rows(torch.zeros(len(texts), dtype=torch.int64)).child(torch.arange(len(texts)))
                yield draw(model, step.prefixes, texts, each.child(len(texts[0])), longest)


def draw(model: CausalModel, prefixes: Prefixes, begun: Sequence[Sequence[int]], stream: Stream, longest: int) -> Drawn:
    """Finish N texts that are equally long by sampling; stream: [N]; longest: budget of a text, its end counted."""
    texts, ended, rows = [list(text) for text in begun], [False] * len(begun), torch.arange(len(begun))
    found = []
    for size in range(len(begun[0]) + 1, longest + 1):
        uniform = stream.uniform(size, Purpose.TOKEN, 1)[:, 0].cpu()
        tokens = inverse_cdf(prefixes.log_prob.cpu(), uniform[rows])
        for row, token in zip(rows.tolist(), tokens.tolist()):
            ended[row] = token == model.end
            texts[row] += [] if ended[row] else [token]
        index = (tokens != model.end).nonzero()[:, 0] if size < longest else rows[:0]
        if not len(index):
            break
        before = model.rows(prefixes, index)
        if before.hidden is None:
            raise BadInput("this model has no hidden states to learn from: give an exact posterior.")
        found.append((rows[index], torch.full_like(index, size), before.hidden.float()))
        rows, prefixes = rows[index], model.extend(before, tokens[index])
    nothing = (rows[:0], rows[:0], torch.empty(0, 0))
    return Drawn(texts, ended, *(torch.cat(parts) for parts in (zip(*found) if found else zip(nothing))))
