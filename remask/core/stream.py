"""Stream: uniforms as a pure function of (row seed, step, purpose, position).

A chain of splitmix64 finalisers (Steele, Lea & Flood 2014) in integer arithmetic, 53 bits, the same numbers on every
device; on the CPU numpy makes them, which has unsigned integers and costs a quarter of torch a call. A draw does not
depend on the batch size, on which other rows are in the batch, on a cache, or on the order in which rows finish.

Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a uniform is for: two purposes never share a number."""

    TIME = 1  # noise level of a training or evaluation row
    MASK = 2  # which cells are masked
    WHERE = 3  # which cell a sampler opens next
    TOKEN = 4  # which token falls into an open cell
    HIT = 5  # first-hitting time
    SHOW = 6  # what a chosen cell shows: the mask, a random token, or itself
    NOISE = 7  # which random token
    SCORE = 8  # which cells are scored
    SPAN = 9  # how long a span is
    REMASK = 10  # which cell is masked again
    BLOCK = 11  # which cells a Gibbs move redraws
    START = 12  # the random token that a chain begins with
    CHOICE = 13  # noise on the score by which cells are chosen


def _signed(constant: int) -> int:
    """The int64 with the bits of an unsigned 64-bit constant."""
    return constant - (1 << 64) if constant >= (1 << 63) else constant


GAMMA = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)
BITS = {bits: torch.tensor(bits, dtype=torch.uint64).numpy() for bits in (11, 27, 30, 31)}
MIX_1_UNSIGNED, MIX_2_UNSIGNED = torch.tensor([MIX_1, MIX_2]).numpy().view("uint64").reshape(2, 1)
CHILD = _signed(0xD1B54A32D192ED03)  # sets the seeds of children apart from the chain of steps


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own >> on int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser, a bijection of 64-bit integers (int64 in, int64 out, products wrap)."""
    if x.device.type == "cpu":
        return torch.from_numpy(_mixed(x.numpy().reshape(-1))).view(x.shape)
    return _mixed(x)


def _mixed(x: Any) -> Any:
    """The same of a tensor, or of numpy's int64 array."""
    if isinstance(x, Tensor):
        x = (x ^ _shift_right(x, 30)) * MIX_1
        x = (x ^ _shift_right(x, 27)) * MIX_2
        return x ^ _shift_right(x, 31)
    y = x.view("uint64")  # whose shifts are logical
    y = (y ^ (y >> BITS[30])) * MIX_1_UNSIGNED
    y = (y ^ (y >> BITS[27])) * MIX_2_UNSIGNED
    return (y ^ (y >> BITS[31])).view("int64")


def _words(seeds: Tensor, key: int | Tensor = 0) -> tuple[Any, Any]:
    """Both as numpy's arrays where the seeds are on the CPU; an int as it is."""
    if seeds.device.type != "cpu":
        return seeds, key
    return seeds.numpy(), key.numpy() if isinstance(key, Tensor) else key


@dataclass(frozen=True)
class Stream:
    """A source of uniforms for B rows.

    seeds: [B] int64, one seed a row.
    """

    seeds: Tensor

    @classmethod
    def of(cls, seed: int, rows: int | Tensor = 1, device: torch.device | str = "cpu") -> Stream:
        """The stream of `seed` for rows 0..rows-1, or for the row numbers in an int64 tensor [B]."""
        index = rows if isinstance(rows, Tensor) else torch.arange(rows, device=device)
        root = mix(torch.tensor(_signed(seed % (1 << 64)), dtype=torch.int64, device=index.device) + GAMMA)
        return cls(mix((root ^ index) + GAMMA))

    def rows(self, index: Tensor) -> Stream:
        """Keep or repeat rows."""
        return Stream(self.seeds[index])

    def child(self, key: int | Tensor) -> Stream:
        """A stream that shares no number with this one; `key` is an int or one int64 a row [B]."""
        seeds, word = _words(self.seeds, key)
        found = _mixed((_mixed(seeds + CHILD) ^ word) + GAMMA)
        return Stream(found if isinstance(found, Tensor) else torch.from_numpy(found))

    def uniform(self, step: int | Tensor, purpose: Purpose, length: int) -> Tensor:
        """Uniforms [B, L] in [0, 1), float64; `step` is an int or one int64 a row [B]."""
        seeds, word = _words(self.seeds, step)
        h = _mixed(seeds + GAMMA)
        h = _mixed((h ^ word) + GAMMA)
        h = _mixed((h ^ int(purpose)) + GAMMA)
        if isinstance(h, Tensor):
            positions = torch.arange(length, device=h.device)
            return _shift_right(_mixed((h[:, None] ^ positions) + GAMMA), 11).double() * 2.0**-53
        x = _mixed((h[:, None] ^ torch.arange(length).numpy()) + GAMMA)
        return torch.from_numpy((x.view("uint64") >> BITS[11]) * 2.0**-53)
