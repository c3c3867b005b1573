"""Negative evidence lower bound of a masked model: an upper bound on -log p(x), exact for exact conditionals.

Two unbiased estimators of the same bound. `count`: mask exactly k cells, k uniform on 1..L, weight L/k (Nie et al.
2025, arXiv 2502.09992, as used there for likelihoods). `time`: mask each cell with probability t, weight 1/t (Sahoo et
al. 2024, arXiv 2406.07524, eq. 10 with a linear schedule), t stratified. Each row's draws are spread evenly over the
noise levels, so a row's mean varies little; standard errors are over rows, or over draws where there is one row.
Shapes: R rows, L length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from remask.core.choose import each, exactly
from remask.core.conditional import Conditional
from remask.core.errors import BadInput
from remask.core.metric import Estimate, exponential, ratio
from remask.core.stream import Purpose, Stream
from remask.metrics.units import in_units

ESTIMATORS = ("count", "time")
SMALLEST_TIME = (
    1e-4  # the `time` estimator leaves out this share of the noise levels, and with it at most this share of the bound
)

LAW = "upper bound"


def draws_of_rows(
    conditional: Conditional,
    tokens: Tensor,
    stream: Stream,
    *,
    draws: int = 8,
    estimator: str = "count",
    among: Tensor | None = None,
    batch: int = 64,
) -> Tensor:
    """One-draw estimates of each row's bound in nats, [R, draws].

    tokens: [R, L]; stream: one seed a row; among: [R, L] bool, the cells that count (default all; padding is left out,
    stays visible and is never masked).
    """
    if estimator not in ESTIMATORS:
        raise BadInput(f"there is no estimator '{estimator}': type --estimator {'|'.join(ESTIMATORS)}.")
    among = torch.ones_like(tokens, dtype=torch.bool) if among is None else among
    results = [
        _one_draw(conditional.rows(index), tokens[index], among[index], stream.rows(index), draw, draws, estimator)
        for draw in range(draws)
        for index in torch.arange(len(tokens), device=tokens.device).split(batch)
    ]
    return torch.cat(results).view(draws, len(tokens)).T


def _one_draw(
    conditional: Conditional, tokens: Tensor, among: Tensor, stream: Stream, draw: int, draws: int, estimator: str
) -> Tensor:
    cells = among.sum(1)
    time = (stream.uniform(draw, Purpose.TIME, 1)[:, 0] + draw) / draws
    uniform = stream.uniform(draw, Purpose.MASK, tokens.shape[1])
    if estimator == "count":
        count = (time * cells).long() + 1
        at = exactly(uniform, among, count)
        weight = cells / count.double()
    else:
        time = SMALLEST_TIME + (1 - SMALLEST_TIME) * time
        at = each(uniform, among, time[:, None])
        weight = (1 - SMALLEST_TIME) / time
    nats = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    if at.any():
        log_prob = conditional(torch.where(at, conditional.alphabet.mask, tokens), at)
        nats[at] = -log_prob.gather(1, tokens[at][:, None])[:, 0].double()
    return nats.sum(1) * weight


def nelbo(
    conditional: Conditional,
    tokens: Tensor,
    stream: Stream,
    *,
    bytes: Tensor | None = None,
    draws: int = 8,
    estimator: str = "count",
    among: Tensor | None = None,
    batch: int = 64,
) -> Iterator[tuple[str, Estimate]]:
    """The bound as nats_per_token, perplexity and, given bytes [R], bits_per_byte.

    tokens: [R, L]; stream: one seed a row; draws: masks drawn for each row.
    """
    values = draws_of_rows(conditional, tokens, stream, draws=draws, estimator=estimator, among=among, batch=batch)
    cells = torch.full((len(tokens),), tokens.shape[1]) if among is None else among.sum(1)
    if len(tokens) > 1:
        yield from in_units(values.mean(1), cells, bytes)
        return
    per_token = ratio(values[0].tolist(), [float(cells[0])] * draws, "nats/token")
    yield "nats_per_token", per_token
    yield "perplexity", exponential(per_token, "perplexity")
    if bytes is not None and int(bytes[0]) > 0:
        bits = [v / math.log(2) for v in values[0].tolist()]
        yield "bits_per_byte", ratio(bits, [float(bytes[0])] * draws, "bits/byte")
