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
