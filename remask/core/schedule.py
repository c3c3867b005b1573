"""Noise schedules as data: alpha(t) is the share of cells still visible at time t, 1 at t = 0 and (nearly) 0 at t = 1.

The continuous-time bound weighs a masked cell's cross-entropy by -alpha'(t) / (1 - alpha(t)) (Sahoo et al. 2024,
arXiv 2406.07524, eq. 10). `time` inverts 1 - alpha, so that a mask rate can be chosen first and its time read off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-3  # the log-linear schedule of the paper's code never masks the last thousandth


class Schedule(NamedTuple):
    """One noise schedule; every function maps float64 times (or rates) elementwise."""

    name: str
    alpha: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]  # d alpha / d t, negative
    time: Callable[[Tensor], Tensor]  # the t at which the mask rate 1 - alpha(t) has this value

    def weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)), the bound's weight."""
        return -self.slope(t) / (1 - self.alpha(t))


LINEAR = Schedule("linear", lambda t: 1 - t, lambda t: -torch.ones_like(t), lambda rate: rate)
"""alpha = 1 - t; the weight is 1/t."""

LOG_LINEAR = Schedule(
    "log_linear",
    lambda t: 1 - (1 - EPSILON) * t,
    lambda t: torch.full_like(t, EPSILON - 1),
    lambda rate: rate / (1 - EPSILON),
)
"""sigma(t) = -log(1 - (1 - eps) t), the default of MDLM's code; the weight is 1/t as well."""

COSINE = Schedule(
    "cosine",
    lambda t: 1 - torch.cos(math.pi / 2 * (1 - t)),
    lambda t: -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t)),
    lambda rate: 1 - torch.acos(rate) * 2 / math.pi,
)
"""alpha = 1 - cos(pi/2 (1 - t)) (Shi et al. 2024, arXiv 2406.04329, the cosine schedule of MD4)."""

SCHEDULES: dict[str, Schedule] = {schedule.name: schedule for schedule in (LINEAR, LOG_LINEAR, COSINE)}


def due(schedule: Schedule, steps: int, step: Tensor, unknown: Tensor, masked: Tensor) -> Tensor:
    """How many cells to open now, [B], so that after step k of T about a share 1 - alpha(1 - k/T) stays masked.

    step: [B], from 0; unknown: [B], cells that were open at the start; masked: [B], those still open. At least one a
    step, and all of them in the last: a row ends within min(steps, unknown) steps. Linear means equal counts, cosine is
    MaskGIT's (Chang et al. 2022, arXiv 2202.04200, section 3.3).
    """
    share = 1 - schedule.alpha(1 - (step + 1).double() / steps)
    stay = (unknown * share + 1e-9).floor().long()  # 3 of 6 cells are 3, whatever 1 - (1 - 0.5) is
    count = torch.minimum((masked - stay).clamp(min=1), masked)
    return torch.where(step + 1 >= steps, masked, count)
