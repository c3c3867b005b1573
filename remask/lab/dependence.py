"""Dependence: how much masked cells know of each other, measured from any conditional by forward passes alone.

Two measurements of the same thing. The cross-entropy of a masked cell when m random others are seen is the information
curve f(m) of correlation.py: whatever the net, k_1 f(m_1) + k_2 f(m_2) + ... is the cross-entropy of the sampler that
opens k_t cells a step in random order, so what that costs beyond one cell a step is known without sampling (Chen, Cong
& Li 2025, arXiv 2511.04647). Where the net's conditionals are the data's, f is an entropy and the cost is KL(data ||
sampler); otherwise the net's own excess over the entropy comes on top, the same for every schedule.

And the conditional mutual information of two masked cells, I(x_i; x_j | seen) = E KL(p(x_j | x_i = a, seen) ||
p(x_j | seen)) with a drawn from p(x_i | seen): one forward pass for each a says it of all j at once. Its mean over
pairs is f(m) - f(m + 1); where the two differ, the net's conditionals contradict each other, or the data. The sum over
the pairs of a step is its total correlation to first order: f continued as a straight line, too much where f is convex.
Shapes: R rows, B rows of a batch, L length, V vocabulary, M points of a curve, N cells asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.choose import exactly
from remask.core.conditional import Conditional
from remask.core.draw import inverse_cdf_of
from remask.core.errors import BadInput
from remask.core.metric import Estimate, ratio
from remask.core.stream import Purpose, Stream
from remask.lab.correlation import best_sizes, schedule_loss

NUMBERS = 2**23  # log p held at a time
MOST_ROWS = 64  # of a batch
RATES = (1.0, 0.75, 0.5, 0.25)  # of masking, at which pairs are probed
CANDIDATES = 8  # values tried of the cell that is probed


def batch_of(conditional: Conditional, length: int) -> int:
    """Rows to ask about at a time."""
    return max(1, min(MOST_ROWS, NUMBERS // (length * conditional.alphabet.size)))


# ---- the curve -------------------------------------------------------------------------------------------------------


def points(length: int, most: int = 17) -> list[int]:
    """Numbers of visible cells at which to measure: even steps from 0 to L - 1, and 1 and 2, where curves are steep."""
    even = {round(k * (length - 1) / (most - 3)) for k in range(most - 2)}
    return sorted(m for m in {*even, 1, 2} if m < length)


def cross_entropy_curve(conditional: Conditional, tokens: Tensor, visible: Sequence[int], stream: Stream) -> Tensor:
    """Each row's estimate of f at every number of visible cells, nats a cell, [R, M] float64.

    tokens: [R, L]; visible: increasing, the first of them measured as it is; stream: one seed a row.
    Each row reveals its cells in one random order. What f falls from one number to the next is measured on the cells
    that are masked at both, where the luck of which cells and which tokens cancels: unbiased, and far less noisy.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    parts = rows.split(batch_of(conditional, tokens.shape[1]))
    found = [_curve(conditional.rows(part), tokens[part], visible, stream.rows(part)) for part in parts]
    return torch.cat(found)


def _curve(conditional: Conditional, tokens: Tensor, visible: Sequence[int], stream: Stream) -> Tensor:
    rank = stream.uniform(0, Purpose.MASK, tokens.shape[1]).argsort(1).argsort(1)
    levels: list[Tensor] = []
    before = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    for m in visible:
        at = rank >= m
        nats = torch.zeros_like(before)
        log_prob = conditional(torch.where(at, conditional.alphabet.mask, tokens), at)
        nats[at] = -log_prob.gather(1, tokens[at][:, None])[:, 0].double()
        step = ((nats - before) * at).sum(1) / at.sum(1)
        levels.append(levels[-1] + step if levels else step)
        before = nats
    return torch.stack(levels, 1)


def spread(values: Tensor, visible: Sequence[int], length: int) -> Tensor:
    """Values [..., M] at increasing numbers of visible cells, on straight lines between them: [..., L].

    Before the first and after the last number the values stay. Linear in the values: means and errors pass through.
    """
    at = torch.tensor(visible, dtype=torch.float64, device=values.device)
    place = torch.arange(length, dtype=torch.float64, device=values.device).clamp(float(at[0]), float(at[-1]))
    high = torch.searchsorted(at, place).clamp(max=len(at) - 1)
    low = (high - 1).clamp(min=0)
    share = torch.where(high > low, (place - at[low]) / (at[high] - at[low]).clamp(min=1), 0.0)
    return values[..., low] * (1 - share) + values[..., high] * share


def smooth(curve: Tensor) -> Tensor:
    """A curve [L] that never rises, its slopes averaged over L / 8 cells: what a schedule is chosen on, lest it chase
    noise."""
    level, wide = falling(curve), len(curve) // 16
    if not wide:
        return level
    slope = torch.nn.functional.avg_pool1d(level.diff()[None], 2 * wide + 1, 1, wide, count_include_pad=False)[0]
    return level[0] + torch.cat([slope.new_zeros(1), slope.cumsum(0)])


def falling(curve: Tensor) -> Tensor:
    """The nearest curve [L] that never rises.

    Least squares by pooling neighbours (Ayer et al. 1955, Annals of Mathematical Statistics 26).
    """
    pools: list[tuple[float, int]] = []  # sum, count
    for value in curve.tolist():
        total, count = value, 1
        while pools and pools[-1][0] * count < total * pools[-1][1]:
            earlier, many = pools.pop()
            total, count = total + earlier, count + many
        pools.append((total, count))
    level = [total / count for total, count in pools for _ in range(count)]
    return torch.tensor(level, dtype=torch.float64, device=curve.device)


def chosen(curves: Tensor, steps: int) -> tuple[tuple[int, ...], Tensor]:
    """The best sizes of T steps for measured curves [R, L], and what they lose in each row, nats, [R].

    The sizes are those of all rows; each half of the rows is judged by the sizes that the other half chose, so that
    the loss is no luck of the choice.
    """
    sizes = best_sizes(smooth(curves.mean(0)), steps)
    if len(curves) < 4:
        return sizes, schedule_loss(curves, sizes)
    lost = torch.zeros(len(curves), dtype=torch.float64)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        rest = torch.ones(len(curves), dtype=torch.bool)
        rest[half] = False
        lost[half] = schedule_loss(curves[half], best_sizes(smooth(curves[rest].mean(0)), steps))
    return sizes, lost


def mean(values: Tensor, unit: str) -> Estimate:
    """Of one value a row [R], with the standard error over rows."""
    return ratio(values.tolist(), [1.0] * len(values), unit)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def pair_information(
    conditional: Conditional, tokens: Tensor, at: Tensor, cell: Tensor, uniform: Tensor, candidates: int = 8
) -> Tensor:
    """I(x_i; x_j | seen) of one masked cell i of each row with every other masked cell j, nats, [B, L], 0 elsewhere.

    tokens: [B, L]; at: [B, L] bool, the masked cells; cell: [B] int64, i; uniform: [B] float64 in [0, 1).
    candidates: values a of x_i tried; all that the conditional allows if they are no more, else a systematic draw from
        it (equally spaced quantiles, the likely tokens first): unbiased, and steadier than independent draws.
    Costs 1 + candidates forward passes a row.
    """
    masked = torch.where(at, conditional.alphabet.mask, tokens)
    others = at.scatter(1, cell[:, None], False)
    row, place = torch.nonzero(at, as_tuple=True)
    own = place == cell[row]
    log_prob = conditional(masked, at)
    tried, weight = _candidates(log_prob[own].double().exp(), uniform, candidates)
    alone, row = log_prob[~own], row[~own]
    found = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    for a, share in zip(tried.T, weight.T):
        told = conditional(masked.scatter(1, cell[:, None], a[:, None]), others)
        gain = torch.where((told > -torch.inf) & (share[row] > 0)[:, None], told.exp() * (told - alone), 0.0)
        found[others] += gain.sum(1).double() * share[row]
    return found


def _candidates(prob: Tensor, uniform: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Tokens to try and their weights, [B, C] each."""
    support = torch.nonzero((prob > 0).any(0))[:, 0]
    if len(support) <= most:
        return support.expand(len(prob), -1), prob[:, support]
    ordered, order = prob.sort(1, descending=True)
    quantile = (uniform[:, None] + torch.arange(most, device=prob.device)) / most
    drawn = [inverse_cdf_of(ordered, quantile[:, c]) for c in range(most)]
    return order.gather(1, torch.stack(drawn, 1)), torch.full_like(quantile, 1 / most)


class Pairs(NamedTuple):
    """Probes of R rows: information [R, L] nats summed over visits, and pairs [R, L], how many, both by distance."""

    information: Tensor
    pairs: Tensor

    def within(self, near: int, far: int) -> Estimate | None:
        """Mean over pairs at distances near..far, with the standard error over rows; None without a pair."""
        total, count = (part[:, near : far + 1].sum(1) for part in self)
        met = count > 0
        return ratio(total[met].tolist(), count[met].tolist(), "nats/pair") if bool(met.any()) else None


def probe(
    conditional: Conditional, tokens: Tensor, masked: int, stream: Stream, visits: int = 1, candidates: int = 8
) -> Pairs:
    """Mask `masked` random cells of every row, choose one of them, and ask what it says of the others; `visits` times.

    tokens: [R, L]; stream: one seed a row. Costs (1 + candidates) * R * visits forward passes.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    found = Pairs(torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device), torch.zeros_like(tokens))
    for visit in range(visits):
        for part in rows.split(batch_of(conditional, tokens.shape[1])):
            _visit(conditional.rows(part), tokens[part], masked, stream.rows(part), visit, candidates, part, found)
    return found


def _visit(
    conditional: Conditional,
    tokens: Tensor,
    masked: int,
    stream: Stream,
    visit: int,
    candidates: int,
    part: Tensor,
    found: Pairs,
) -> None:
    length = tokens.shape[1]
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    count = torch.full((len(tokens),), masked, device=tokens.device)
    at = exactly(stream.uniform(visit, Purpose.MASK, length), everywhere, count)
    cell = exactly(stream.uniform(visit, Purpose.WHERE, length), at, torch.ones_like(count)).long().argmax(1)
    quantile = stream.uniform(visit, Purpose.TOKEN, 1)[:, 0]
    information = pair_information(conditional, tokens, at, cell, quantile, candidates)
    distance = (torch.arange(length, device=tokens.device) - cell[:, None]).abs()
    others = (at & (distance > 0)).long()
    found.information[part] += torch.zeros_like(information).scatter_add_(1, distance, information)
    found.pairs[part] += torch.zeros_like(others).scatter_add_(1, distance, others)


def distances(length: int) -> list[tuple[int, int]]:
    """Bins of distance between two cells that double: 1, 2, 3-4, 5-8, ..."""
    edges = [0, 1]
    while edges[-1] < length - 1:
        edges.append(min(2 * edges[-1], length - 1))
    return [(low + 1, high) for low, high in pairwise(edges) if high < length]


def pair_loss(information: Tensor, sizes: Sequence[int]) -> float:
    """First-order loss of a schedule in random order, nats: the pairs of each step, k (k - 1) / 2, times their mean
    information when m cells are seen, [L]."""
    seen = [sum(sizes[:t]) for t in range(len(sizes))]
    return sum(k * (k - 1) / 2 * float(information[m]) for k, m in zip(sizes, seen))


# ---- both together ---------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What was measured of a conditional on R rows.

    visible: [M] numbers of visible cells; points: [R, M] cross-entropies there, nats; probes: pairs at numbers of
    masked cells, the most masked first.
    """

    length: int
    visible: list[int]
    points: Tensor
    probes: list[tuple[int, Pairs]]

    @property
    def curves(self) -> Tensor:
        """The information curve of each row, [R, L] nats."""
        return spread(self.points, self.visible, self.length)

    def slope(self, masked: int) -> Tensor:
        """f(m) - f(m + 1) of each row where so many cells are masked, nats, [R]: a mean pair's information."""
        m = min(self.length - masked, self.length - 2)
        curves = self.curves
        return curves[:, m] - curves[:, m + 1]

    @property
    def information(self) -> Tensor:
        """Of a mean pair, nats, at every number of visible cells, [L]."""
        known = [(self.length - masked, pairs.within(1, self.length)) for masked, pairs in self.probes]
        found = [(m, value.value) for m, value in known if value is not None]
        values = torch.tensor([value for _, value in found], dtype=torch.float64)
        return spread(values, [m for m, _ in found], self.length)


def measure(conditional: Conditional, tokens: Tensor, passes: int, seed: int = 0) -> Measured:
    """The curve on all rows [R, L], and pairs at four mask rates for about `passes` forward passes (0: none)."""
    rows, length = tokens.shape
    counts = sorted({max(2, round(rate * length)) for rate in RATES}, reverse=True)
    visits = passes // (len(counts) * (1 + CANDIDATES))
    if passes and not visits:
        raise BadInput(f"--pairs came as {passes}: type {len(counts) * (1 + CANDIDATES)} or more, or 0.")
    stream = Stream.of(seed, rows, tokens.device)
    visible = points(length)
    curve = cross_entropy_curve(conditional, tokens, visible, stream).cpu()
    if not visits:
        return Measured(length, visible, curve, [])
    some = torch.linspace(0, rows - 1, min(rows, visits), device=tokens.device).round().long()
    again = max(1, visits // rows)
    probes = [
        (count, probe(conditional.rows(some), tokens[some], count, stream.rows(some).child(count), again, CANDIDATES))
        for count in counts
    ]
    return Measured(
        length, visible, curve, [(count, Pairs(*(part.cpu() for part in found))) for count, found in probes]
    )
