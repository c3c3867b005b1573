"""Graphs: who interacts with whom, as a list of edges. Shapes: E edges, L nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, pairwise

import torch
from torch import Tensor

from remask.core.errors import BadInput, UnknownName
from remask.core.stream import Purpose, Stream

Edges = list[tuple[int, int]]
SHARE = 0.5  # of all pairs, in a random graph


def clique(size: int, seed: int = 0) -> Edges:
    """Everybody with everybody."""
    del seed
    return list(combinations(range(size), 2))


def ring(size: int, seed: int = 0) -> Edges:
    """Everybody with the next, the last with the first; two nodes have one edge."""
    del seed
    return [(i, i + 1) for i in range(size - 1)] + ([(0, size - 1)] if size > 2 else [])


def path(size: int, seed: int = 0) -> Edges:
    """Everybody with the next."""
    del seed
    return [(i, i + 1) for i in range(size - 1)]


def grid(size: int, seed: int = 0) -> Edges:
    """A rectangle, as square as `size` allows: 6 is 2 by 3, 7 a line."""
    del seed
    width = next(w for w in range(math.isqrt(size), 0, -1) if size % w == 0)
    down = [(i, i + width) for i in range(size - width)]
    return [(i, i + 1) for i in range(size) if (i + 1) % width] + down


def random(size: int, seed: int = 0) -> Edges:
    """Each pair with probability one half, and a path through a random order of all, so that it hangs together."""
    uniform = Stream.of(seed).uniform(0, Purpose.START, size * size)[0].view(size, size)
    order = uniform.diagonal().argsort().tolist()
    found = {tuple(sorted(pair)) for pair in pairwise(order)}
    found |= {(i, j) for i, j in combinations(range(size), 2) if uniform[i, j] < SHARE}
    return sorted((int(i), int(j)) for i, j in found)


GRAPHS: dict[str, Callable[[int, int], Edges]] = {
    "clique": clique,
    "ring": ring,
    "path": path,
    "grid": grid,
    "random": random,
}


def edges_of(graph: str, size: int, seed: int = 0) -> Edges:
    """The edges of a named graph; BadInput for fewer than one node."""
    if graph not in GRAPHS:
        raise UnknownName("graph", graph, GRAPHS)
    if size < 1:
        raise BadInput(f"a graph of {size} nodes was asked for: type --size 1 or more.")
    return GRAPHS[graph](size, seed)


def parts(edges: Edges, size: int) -> Tensor:
    """Which connected part each node belongs to, [L] int64: the smallest node in it."""
    part = torch.arange(size)
    for _ in range(size):
        for i, j in edges:
            part[i] = part[j] = min(int(part[i]), int(part[j]))
    return part
