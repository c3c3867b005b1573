"""Autocorrelation: how long a chain remembers, measured on its run where its states are too many to enumerate.

The integrated time is t = 1 + 2 sum_{s=1..W} rho(s), steps per independent draw (2 tau_int of the source), with the
window W that is the first to exceed 6 tau_int, and standard error t sqrt(2 (2 W + 1) / n) over n values (Sokal 1997,
Monte Carlo Methods in Statistical Mechanics, section 3; Madras & Sokal 1988, Journal of Statistical Physics 50).
Shapes: C chains (rows), T times, B rows, L length, S states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.canvas import Canvas
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.metric import Estimate
from remask.core.sampler import run
from remask.core.stream import Purpose, Stream
from remask.lab.kernels import probabilities
from remask.lab.laws import Law
from remask.samplers.gibbs import Gibbs

WINDOW = 6.0  # of tau_int, or of 1 where that is less; an exponential decay loses exp(-6) beyond it
ENOUGH = 50  # independent draws that a run must hold for its integrated time to be worth a name
SHORTEST = 4  # times of a run
NOISE = 2**20  # child stream of the run from noise

Statistic = Callable[[Tensor], Tensor]
"""Rows [B, L] -> a number each, [B]."""


class Correlation(NamedTuple):
    """How long a chain remembers.

    curve: rho(0) = 1, rho(1) ..., [W + 1], up to the window; time: the integrated time, in steps of the series;
    effective: how many independent draws the run is worth; enough: False where those are so few, or the window so long,
    that the time is only a lower bound.
    """

    curve: Tensor
    time: Estimate
    effective: float
    enough: bool


def autocorrelation(series: Tensor, mean: float | None = None) -> Tensor:
    """rho(0), rho(1) ... rho(T - 1) of runs [T] or [C, T] of one chain, pooled.

    mean: the statistic's true mean, where it is known; else that of all values. BadInput for a statistic that never
    changes, or is not finite.
    """
    series = torch.atleast_2d(series).double()
    times = series.shape[1]
    if times < SHORTEST:
        raise BadInput(f"a run of {times} values has no autocorrelation: make it {SHORTEST} or more.")
    if not series.isfinite().all():
        raise BadInput("the statistic of the run is not finite: look for NaN in what is measured.")
    centred = series - (series.mean() if mean is None else mean)
    spectrum = torch.fft.rfft(centred, n=2 * times)
    lags = torch.fft.irfft(spectrum.abs() ** 2, n=2 * times)[:, :times].mean(0)
    lags = lags / torch.arange(times, 0, -1)
    if not (series != series[0, 0]).any() or lags[0] <= 0:
        raise BadInput("the statistic never changed during the run: make the run longer, or measure another one.")
    return lags / lags[0]


def integrated(series: Tensor, mean: float | None = None) -> Correlation:
    """The integrated autocorrelation time of runs [T] or [C, T], with Sokal's window."""
    rho = autocorrelation(series, mean)
    half = rho.cumsum(0) - 0.5  # tau_int for every window
    windows = torch.arange(len(rho))
    wide = windows >= WINDOW * half.clamp(min=1)
    closes = bool(wide.any())
    window = int(wide.long().argmax()) if closes else len(rho) - 1
    time, count = 2 * float(half[window]), series.numel()
    error = abs(time) * math.sqrt(2 * (2 * window + 1) / count)
    effective = count / time if time > 0 else 0.0
    enough = closes and effective >= ENOUGH
    return Correlation(rho[: window + 1], Estimate(time, error, "steps", count), effective, enough)


def exact_autocorrelation(kernel: Tensor, law: Law | Tensor, statistic: Tensor, steps: int) -> Tensor:
    """rho(0) ... rho(steps) of a statistic [S] in the chain at rest, <f, P^t f> / <f, f>, [steps + 1]."""
    law = probabilities(law)
    centred = statistic.double() - law @ statistic.double()
    now, found = centred, []
    for _ in range(steps + 1):
        found.append((law * centred) @ now)
        now = kernel @ now
    return torch.stack(found) / found[0]


def exact_time(kernel: Tensor, law: Law | Tensor, statistic: Tensor) -> float:
    """The integrated time of a statistic [S] in the chain at rest, 1 + 2 sum rho = 2 <f, (I - P)^-1 f> / <f, f> - 1.

    BadInput where the statistic is constant under the law. inf where the chain is not ergodic.
    """
    law, statistic = probabilities(law), statistic.double()
    centred = statistic - law @ statistic
    variance = float((law * centred) @ centred)
    if variance <= 0:
        raise BadInput("the statistic has one value under this law: measure another one.")
    size = len(law)
    fundamental = torch.eye(size, dtype=torch.float64) - kernel + law  # (I - P + 1 p) is invertible
    solved, singular = torch.linalg.solve_ex(fundamental, centred)
    found = 2 * float((law * centred) @ solved) / variance - 1
    return found if not singular and math.isfinite(found) else math.inf


class GibbsRuns(NamedTuple):
    """What Gibbs did from data and from noise.

    data, noise: the statistic before the first move and after each, [B, moves + 1], of the chain that begins with the
    canvas and of the one that begins with random tokens in its unknown cells; correlation: of the first, in moves;
    apart: mean from data less mean from noise over the second half of the moves (standard error over rows).
    """

    data: Tensor
    noise: Tensor
    correlation: Correlation
    apart: Estimate


def gibbs_autocorrelation(
    conditional: Conditional, canvas: Canvas, size: int, moves: int, statistic: Statistic, stream: Stream
) -> GibbsRuns:
    """Gibbs with blocks of `size` cells, from data and from noise, and how long `statistic` stays correlated.

    canvas: true rows whose cells are unknown (masks in it are filled first, as move 0); stream: one row of it for each
    of the canvas. Where the chain mixes, the two means agree; where they do not, the correlation of the run from data
    is only that within the part of the states where the data lie.
    """
    if not canvas.unknown.any(1).all():
        raise BadInput("a row of the canvas has no unknown cell, so no move can change it: leave some cells open.")
    rows = len(canvas.tokens)
    both = [canvas, scrambled(canvas, conditional, stream)]  # in one batch: a call costs about the same
    begun = Canvas(*(torch.cat(parts) for parts in zip(*both)))
    twice = torch.arange(rows, device=canvas.tokens.device).repeat(2)
    seeds = Stream(torch.cat([stream.seeds, stream.child(NOISE).seeds]))
    data, noise = gibbs_series(conditional.rows(twice), begun, size, moves, statistic, seeds).split(rows)
    late = slice((moves + 1) // 2, None)
    rest, other = data[:, late].mean(1), noise[:, late].mean(1)
    error = math.sqrt(float(rest.var() + other.var()) / rows) if rows > 1 else math.nan
    apart = Estimate(float(rest.mean() - other.mean()), error, "of the statistic", rows)
    return GibbsRuns(data, noise, integrated(data), apart)


def gibbs_series(
    conditional: Conditional, canvas: Canvas, size: int, moves: int, statistic: Statistic, stream: Stream
) -> Tensor:
    """The statistic of each row before the first move (once its masks are filled) and after each, [B, moves + 1]."""
    series = torch.full((len(canvas.tokens), moves + 1), math.nan, dtype=torch.float64)
    full = torch.nonzero(~(canvas.unknown & (canvas.tokens == conditional.alphabet.mask)).any(1))[:, 0]
    if len(full):
        series[full, 0] = statistic(canvas.tokens[full]).double()
    for state, info in run(Gibbs(size=size, moves=moves), conditional, canvas, stream):
        rows = torch.nonzero(state.inner.done & (info.calls > 0))[:, 0]
        if len(rows):
            series[rows, state.move[rows]] = statistic(state.tokens[rows]).double()
    return series


def scrambled(canvas: Canvas, conditional: Conditional, stream: Stream) -> Canvas:
    """The canvas with a uniformly random ordinary token in every unknown cell."""
    alphabet = conditional.alphabet
    ids = torch.tensor([i for i in range(alphabet.size) if i not in alphabet.special and i != alphabet.mask])
    uniform = stream.uniform(0, Purpose.START, canvas.tokens.shape[1])
    noise = ids.to(canvas.tokens.device)[(uniform * len(ids)).long()]
    return Canvas(torch.where(canvas.frozen, canvas.tokens, noise), canvas.frozen)
