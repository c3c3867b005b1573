"""Which cells: small functions from uniforms to a bool mask.

Shapes: B batch, L length.
"""

from __future__ import annotations

import math

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


def blocks_of(among: Tensor, block: int) -> Tensor:
    """How many True cells of `among` [B, L] each block of `block` cells has, [B, J]; the last block may be shorter."""
    return _in_blocks(among.long(), block, 0).sum(2)


def in_each_block(uniform: Tensor, among: Tensor, count: Tensor, block: int) -> Tensor:
    """A random subset of `count` [B, J] True cells of `among` [B, L] in each block, [B, L] bool; all if fewer.

    uniform: [B, L] float64, one number a cell.
    """
    numbers, cells = _in_blocks(uniform, block, 2.0).flatten(0, 1), _in_blocks(among, block, False).flatten(0, 1)
    return exactly(numbers, cells, count.flatten()).view(len(among), -1)[:, : among.shape[1]]


def _in_blocks(cells: Tensor, block: int, fill: float | bool) -> Tensor:
    """[B, L] as [B, J, block], the last block filled up."""
    return torch.nn.functional.pad(cells, (0, -cells.shape[1] % block), value=fill).view(len(cells), -1, block)


def best(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] cells of `among` [B, L] with the highest scores [B, L]; of equal ones the first in the row."""
    lowest = torch.finfo(score.dtype).min  # a score of -inf still comes before cells that are no candidates
    key = torch.where(among, -score.clamp(min=lowest), torch.inf)
    rank = key.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (rank < count[:, None]) & among


def words(uniform: Tensor, among: Tensor, count: Tensor, inside: Tensor, documents: Tensor) -> Tensor:
    """Whole words in random order while they fit into `count` [B] cells (at least one, cut if need be), [B, L] bool.

    uniform: [B, L] float64; the number of a word is that of its first cell. inside: [B, L] bool, True where a token
    goes on with the word before it; documents: [B, L], a word ends with its document.
    """
    first = ~inside
    first[:, 1:] |= (documents[:, 1:] != documents[:, :-1]) | ~among[:, :-1]
    first[:, 0] = True
    word = (first & among).long().cumsum(1)  # from 1 on; 0 before the first word
    words_at_most = among.shape[1] + 1
    size = torch.zeros(len(among), words_at_most, dtype=torch.int64, device=among.device)
    size.scatter_add_(1, word, among.long())
    key = torch.full((len(among), words_at_most), 2.0, dtype=torch.float64, device=among.device)
    key.scatter_reduce_(1, word, torch.where(first & among, uniform, 2.0), "amin")
    order = key.argsort(dim=1, stable=True)
    before = size.gather(1, order).cumsum(1)
    fits = before <= count[:, None]
    fits[:, 0] = True  # one long word may be all that there is
    taken = torch.zeros_like(fits).scatter_(1, order, fits) & (key < 2.0)
    position = torch.arange(among.shape[1], device=among.device).expand_as(among).double() / among.shape[1]
    return exactly(position, taken.gather(1, word) & among, count)  # a word longer than that is cut


LONGEST_SPAN = 10  # SpanBERT's


def spans(where: Tensor, size: Tensor, among: Tensor, count: Tensor, mean: float) -> Tensor:
    """Random spans until exactly `count` [B] cells of `among` are covered (all of them if fewer), [B, L] bool.

    where, size: [B, L] float64 uniforms: the j-th span begins at a random cell and has a geometric length of about
    `mean`, at most ten. The last span is cut where the count is reached.
    """
    rows, length = among.shape
    start = where.argsort(dim=1, stable=True)  # a random order of beginnings
    stop = 1 / mean
    drawn = torch.ones_like(size) if stop >= 1 else 1 + (torch.log1p(-size) / math.log1p(-stop)).floor()
    reach = drawn.clamp(max=LONGEST_SPAN).long()
    rank = torch.full((rows, length), length, dtype=torch.int64, device=among.device)  # which span covers a cell first
    turn = torch.arange(length, device=among.device).expand(rows, -1)
    for step in range(min(LONGEST_SPAN, length)):
        cell = start + step
        inside = (step < reach) & (cell < length)
        rank.scatter_reduce_(1, cell.clamp(max=length - 1), torch.where(inside, turn, length), "amin")
    order = (rank * length + turn).double() / (length * (length + 1))
    return exactly(order, among, count)
