"""T5's relative positions: distances fall into buckets, exact when near and logarithmic when far.

Raffel et al. 2020 (arXiv 1910.10683, section 2.1). A two-sided table spends half of its buckets on each side.
Shapes: Q queries, K keys, N buckets, H heads.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def bucket(offset: Tensor, number: int, far: int, two_ways: bool) -> Tensor:
    """Bucket of each offset (key minus query) in 0..number-1.

    number: N, of both sides together; far: distance from which on all fall into the last one.
    """
    base = torch.zeros_like(offset)
    if two_ways:
        number //= 2
        base = (offset > 0).long() * number
        distance = offset.abs()
    else:
        distance = (-offset).clamp(min=0)
    exact = number // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(far / exact)
    coarse = (exact + (ratio * (number - exact)).long()).clamp(max=number - 1)
    return base + torch.where(distance < exact, distance, coarse)


@lru_cache(maxsize=256)
def _buckets(queries: int, keys: int, number: int, far: int, two_ways: bool, device: str) -> Tensor:
    with torch.inference_mode(False):  # what inference caches, training must be able to use
        place = torch.arange(keys - queries, keys, device=device)
        return bucket(torch.arange(keys, device=device)[None] - place[:, None], number, far, two_ways)


def buckets(queries: int, keys: int, number: int, far: int, two_ways: bool, device: torch.device) -> Tensor:
    """Buckets of the last `queries` of `keys` cells, [Q, K] int64."""
    return _buckets(queries, keys, number, far, two_ways, str(device))


def typical(number: int, far: int, two_ways: bool) -> Tensor:
    """The smallest distance that falls into each bucket, with its sign (left is negative), [N] float32.

    A bucket that no whole distance falls into has that of the one before it.
    """
    reach = torch.arange(-far, far + 1)
    found = bucket(reach, number, far, two_ways)
    half = number // 2 if two_ways else number
    distances = torch.zeros(number)
    for index in range(number):
        inside = reach[found == index]
        inside = inside if two_ways and index >= half else inside[inside <= 0]
        near = inside[inside.abs().argmin()] if len(inside) else distances[index - 1]
        distances[index] = float(near)
    return distances


def two_sided(table: Tensor, far: int) -> Tensor:
    """A causal decoder's table [N, H] as a two-sided one: each distance keeps its bias, on either side."""
    number = len(table)
    distance = typical(number, far, two_ways=True).abs().long()
    return table[bucket(-distance, number, far, two_ways=False)]


def halved(heads: int) -> list[float]:
    """Slopes 1, 1/2, 1/4 nats a token in turn: where tables begin that go on to learn."""
    return [0.5 ** (h % 3) for h in range(heads)]


def directed(number: int, far: int, directions: list[str], slopes: list[float], two_ways: bool, wrong: float) -> Tensor:
    """A table [N, H] that begins as directional heads do: -slope * distance, and `wrong` less on the other side.

    directions: left, right or free, one a head (a causal table has but one side).
    """
    place = typical(number, far, two_ways)
    sides = {"left": place > 0, "right": place < 0, "free": torch.zeros_like(place, dtype=torch.bool)}
    columns = [-slope * place.abs() - wrong * sides[kind].float() for kind, slope in zip(directions, slopes)]
    return torch.stack(columns, 1)
