"""Automaton: a language over tokens, as a deterministic machine that reads one token a cell.

Most tokens are alike to a pattern (any word of two letters, say): those that lead from the same states to the same
states form one group, as characters do in the tables of a scanner (Aho, Sethi & Ullman 1986, section 3.9). A transition
reads a group, so a pattern costs what its groups cost, and each token that occurs is looked at once a cell.
Shapes: S states, V ids, U ids that occur, G groups, K transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.errors import BadInput


class Cell(NamedTuple):
    """The part of an automaton that matters in one cell of a text of known length.

    source, label, target: [K'] transitions; tokens: [U'] ids that they read, ascending; group: [U'] of those.
    """

    source: Tensor
    label: Tensor
    target: Tensor
    tokens: Tensor
    group: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Automaton:
    """States and what they read. Made by `Automaton.of`, which leaves out what cannot be part of any text."""

    start: int
    """The state that a text begins in."""
    accept: Tensor
    """[S] bool: a text may end here."""
    group: Tensor
    """[V] int64: the group of each id, -1 where it occurs nowhere."""
    source: Tensor
    """[K] int64: transitions, sorted by their state of departure,"""
    label: Tensor
    """[K] int64: the group that they read,"""
    target: Tensor
    """[K] int64: and the state they lead to."""
    used: Tensor
    """[U] int64: the ids that occur, ascending."""

    @classmethod
    def of(cls, size: int, start: int, accept: Tensor, source: Tensor, token: Tensor, target: Tensor) -> Automaton:
        """The automaton of the transitions source, token, target [K] (int64) between len(accept) states.

        size: V. Raises ValueError when two transitions of a state read the same token, BadInput when no text at all
        (not even the empty one) leads to a state of `accept` [S].
        """
        states = len(accept)
        alive = _reached(torch.arange(states, device=source.device) == start, source, target)
        alive &= _reached(accept, target, source)
        if not alive[start]:
            raise BadInput("no text matches: allow at least one text that the vocabulary can spell.")
        kept, number = alive[source] & alive[target], alive.cumsum(0) - 1
        source, token, target = number[source[kept]], token[kept], number[target[kept]]
        order = (token * states + source).argsort()
        source, token, target = source[order], token[order], target[order]
        if ((token.diff() == 0) & (source.diff() == 0)).any():
            raise ValueError("two transitions of one state read the same token")
        group, first = _groups(size, token, source * states + target)
        source, label, target = source[first], group[token[first]], target[first]
        order = source.argsort(stable=True)
        used = torch.nonzero(group >= 0)[:, 0]
        return cls(int(number[start]), accept[alive], group, source[order], label[order], target[order], used)

    def __repr__(self) -> str:
        return f"Automaton({self.states} states, {len(self.source)} transitions, {len(self.used)} tokens)"

    @property
    def states(self) -> int:
        """S."""
        return len(self.accept)

    @property
    def groups(self) -> int:
        """G."""
        return int(self.group.max()) + 1 if len(self.group) else 0

    def to(self, device: torch.device | str) -> Automaton:
        """The same automaton on another device."""
        tensors = (self.accept, self.group, self.source, self.label, self.target, self.used)
        return Automaton(self.start, *(tensor.to(device) for tensor in tensors))

    def remaining(self, longest: int) -> Tensor:
        """[longest + 1, S] bool: can a text that is in this state end after exactly so many more tokens?"""
        rows = [self.accept]
        for _ in range(longest):
            can = torch.zeros_like(self.accept)
            can[self.source[rows[-1][self.target]]] = True
            rows.append(can)
        return torch.stack(rows)

    def lengths(self, longest: int) -> list[int]:
        """Every number of tokens, up to `longest`, that some text of the language has."""
        return torch.nonzero(self.remaining(longest)[:, self.start])[:, 0].tolist()

    def cells(self, width: int) -> list[Cell]:
        """What can be read in each cell of a text of `width` tokens."""
        left = self.remaining(width).flip(0)
        reached = torch.zeros_like(self.accept)
        reached[self.start] = True
        found = []
        for cell in range(width):
            goes = (reached & left[cell])[self.source] & left[cell + 1][self.target]
            reached = torch.zeros_like(reached)
            reached[self.target[goes]] = True
            occurs = torch.zeros(self.groups, dtype=torch.bool, device=reached.device)
            occurs[self.label[goes]] = True
            tokens = self.used[occurs[self.group[self.used]]]
            found.append(Cell(self.source[goes], self.label[goes], self.target[goes], tokens, self.group[tokens]))
        return found


def _groups(size: int, token: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens with the same edges, [V]; and which transitions are those of the first token of each group.

    token, edge: [K] transitions sorted by token, then by source; an edge is its pair of states as one number.
    """
    counts = torch.bincount(token, minlength=size)
    ends = counts.cumsum(0).tolist()
    table = edge.cpu().numpy()
    group, first = [-1] * size, []
    known: dict[bytes, int] = {}
    for number in torch.nonzero(counts)[:, 0].tolist():
        low = ends[number - 1] if number else 0
        key = table[low : ends[number]].tobytes()
        if key not in known:
            known[key] = len(known)
            first.append(torch.arange(low, ends[number], device=token.device))
        group[number] = known[key]
    kept = torch.cat(first) if first else token.new_zeros(0)
    return torch.tensor(group, dtype=torch.int64, device=token.device), kept


def _reached(seen: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """The states that can be reached from those of `seen`, both [S] bool."""
    while True:
        more = seen.clone()
        more[target[seen[source]]] = True
        if torch.equal(more, seen):
            return seen
        seen = more
