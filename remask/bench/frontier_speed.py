"""Speed on the frontier: a system and the baseline in turns, so that a machine that slows down slows both.

A round writes the same number of texts of one length with the one and with the other, next to each other in time, the
first of them in turns; ratios are of the times of one round. The median round is quoted, with the least and the most
(Kasai et al. 2021, arXiv 2006.10369, on baselines that were not timed fairly). On a GPU the clock is read when the
device has done what it was told. Slow systems get fewer rounds, whose number stands in their row: once the rounds of a
system have taken `patience` seconds, no other begins.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from remask.bench.frontier_systems import System, Writer
from remask.core.stream import Stream

WARM = 16  # tokens of a text that is written before the first round and not timed
THOUSAND = 1000


class Speed(NamedTuple):
    """seconds: of every round, for all its texts; ratios: the baseline's seconds over these; tokens: of a round."""

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    tokens: int

    def json(self) -> dict[str, Any]:
        """seconds: for 1,000 tokens; the standard error is that of a median of normal numbers."""
        median = statistics.median(self.seconds)
        share = _error(self.seconds) / median if median else math.nan
        seconds = median * THOUSAND / self.tokens
        rate = self.tokens / median if median else math.nan
        return {
            "seconds": seconds,
            "seconds_stderr": share * seconds,
            "tokens_per_second": rate,
            "tokens_per_second_stderr": share * rate,
            "ratio": statistics.median(self.ratios),
            "ratio_stderr": _error(self.ratios),
            "least": min(self.ratios),
            "most": max(self.ratios),
            "rounds": len(self.seconds),
        }


def _error(values: tuple[float, ...]) -> float:
    """Of their median; nan for a single one."""
    if len(values) < 2:
        return math.nan
    return math.sqrt(math.pi / 2 / len(values)) * statistics.stdev(values)


def timed(
    system: System,
    baseline: System,
    length: int,
    batch: int,
    *,
    rounds: int,
    patience: float = math.inf,
    seed: int,
    device: torch.device,
    clock: Callable[[], float],
) -> Speed:
    """Time a system against the baseline in `rounds` rounds or, where they take longer than `patience` seconds, fewer.

    The baseline against itself is timed once a round.
    """
    arms = (baseline,) if system.time_key == baseline.time_key else (baseline, system)
    seconds: dict[tuple[Any, ...], list[float]] = {arm.time_key: [] for arm in arms}
    for arm in arms:
        arm.write(min(WARM, length), Stream.of(seed, batch, device))
    begun = clock()
    for number in range(rounds):
        if number and clock() - begun >= patience:
            break
        stream = Stream.of(seed, batch, device).child(number)
        for arm in arms if number % 2 else arms[::-1]:
            seconds[arm.time_key].append(_took(arm.write, length, stream, device, clock))
    mine, theirs = seconds[system.time_key], seconds[baseline.time_key]
    ratios = tuple(their / my if my else math.nan for my, their in zip(mine, theirs))
    return Speed(tuple(mine), ratios, batch * length)


def _took(write: Writer, length: int, stream: Stream, device: torch.device, clock: Callable[[], float]) -> float:
    _settled(device)
    began = clock()
    write(length, stream)
    _settled(device)
    return clock() - began


def _settled(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
