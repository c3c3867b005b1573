"""Compatibility: are conditionals p(x_i | the visible rest) those of one joint law?

Of one law, every order of the chain rule gives a row the same likelihood, and no cycle of Gibbs moves is likelier in
one direction than in the other (Besag 1974, Journal of the Royal Statistical Society B 36, section 2: the
Hammersley-Clifford theorem's consistency of conditionals). A trained net's conditionals are asked one by one and owe
each other nothing; how far they disagree is measured here. The same questions give the information curve f(m) of
correlation.py and dependence.py, nats of a masked cell when m random others are seen, and with it what `ancestral`
costs (Chen, Cong & Li 2025, arXiv 2511.04647).
Shapes: B rows, L length, K orders, V ids.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from remask.core.conditional import Conditional
from remask.core.draw import inverse_cdf
from remask.core.errors import BadInput
from remask.core.stream import Purpose, Stream

LOGITS = 2**24  # log p held at a time
TOGETHER = 128  # rows asked together at most: more are no faster


class Chains(NamedTuple):
    """Each row written in each order.

    nats: -log p of the cell opened at each step, [B, K, L]; masked: mean -log p of all the cells still masked then,
    that one and the later ones, [B, K, L]. At step t there are L - t masks.
    """

    nats: Tensor
    masked: Tensor

    @property
    def log_prob(self) -> Tensor:
        """Log p of each row by each order, nats, [B, K]."""
        return -self.nats.sum(2)

    @property
    def curve(self) -> Tensor:
        """f(m), m = 0..L-1: nats of a masked cell when m cells are seen, mean over the orders, [B, L]."""
        return self.masked.mean(1)


def random_orders(stream: Stream, count: int, length: int) -> Tensor:
    """Uniformly random orders of all cells, other ones for each row of the stream, [B, count, L]."""
    drawn = [stream.uniform(k, Purpose.WHERE, length).argsort(dim=1, stable=True) for k in range(count)]
    return torch.stack(drawn, 1)


def left_to_right(rows: int, length: int) -> Tensor:
    """One order, the same for all rows, [B, 1, L]."""
    return torch.arange(length).expand(rows, 1, length)


def chain_rule(conditional: Conditional, tokens: Tensor, orders: Tensor) -> Chains:
    """Write each row of `tokens` [B, L] one cell a step in each of its orders [B, K, L]; L calls, orders batched."""
    rows, count, length = orders.shape
    row = torch.arange(rows).repeat_interleave(count)
    turn = orders.flatten(0, 1).argsort(1)  # the step at which a cell opens, [B K, L]
    parts = [
        _chains(conditional.rows(row[some]), tokens[row[some]], turn[some])
        for some in _groups(rows * count, length * conditional.alphabet.size)
    ]
    nats, masked = (torch.cat(part).view(rows, count, length) for part in zip(*parts))
    return Chains(nats, masked)


def _chains(conditional: Conditional, tokens: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    nats, masked = (torch.zeros(tokens.shape, dtype=torch.float64) for _ in range(2))
    for step in range(tokens.shape[1]):
        at = turn >= step
        log_prob = conditional(torch.where(at, conditional.alphabet.mask, tokens), at)
        costs = torch.zeros(tokens.shape, dtype=torch.float64)
        costs[at] = -log_prob.gather(1, tokens[at][:, None])[:, 0].double()
        nats[:, step] = costs[turn == step]
        masked[:, step] = costs.sum(1) / at.sum(1)
    return nats, masked


def spread(log_prob: Tensor) -> Tensor:
    """Standard deviation of log p [B, K] over the orders, K - 1 in its denominator: 0 for one joint law, [B]."""
    if log_prob.shape[1] < 2:
        raise BadInput("one order has nothing to differ from: type --orders 2 or more.")
    return log_prob.std(1)


def place(one: Tensor, others: Tensor) -> Tensor:
    """Share of the `others` [B, K] that `one` [B] exceeds, ties count half, [B]: 1/2 in the mean if it is like them."""
    below = (others < one[:, None]).double() + (others == one[:, None]).double() / 2
    return below.mean(1)


class Cycles(NamedTuple):
    """Two cells and two tokens for each, [B] each.

    ratio: log [p(a|b') p(b|a) p(a'|b) p(b'|a')] less the same cycle the other way round, 0 for one joint law; odds: the
    log odds ratio of the two cells (mean of what either says), the size of the dependence that `ratio` is a part of.
    """

    ratio: Tensor
    odds: Tensor


def cycles(conditional: Conditional, tokens: Tensor, cells: Tensor, others: Tensor) -> Cycles:
    """Walk (a', b') -> (a, b') -> (a, b) -> (a', b) -> (a', b') by Gibbs moves in two cells, and back.

    tokens: rows [B, L], which hold a and b; cells: the two places, [B, 2]; others: a' and b', [B, 2]. NaN where a
    probability is 0, since then nothing follows.
    """
    rows = torch.arange(len(tokens))
    own = tokens.gather(1, cells)
    seen, at = tokens.repeat(4, 1), torch.zeros(4 * len(tokens), tokens.shape[1], dtype=torch.bool)
    parts = ((0, own), (0, others), (1, own), (1, others))  # the cell asked about, and what the other one shows
    for part, (asked, shown) in enumerate(parts):
        here = rows + part * len(rows)
        seen[here, cells[:, 1 - asked]] = shown[:, 1 - asked]
        seen[here, cells[:, asked]] = conditional.alphabet.mask
        at[here, cells[:, asked]] = True
    index = _groups(len(seen), conditional.alphabet.size)
    log_prob = torch.cat([conditional.rows(i % len(rows))(seen[i], at[i]) for i in index])
    sides = []
    for part, (asked, _) in zip(log_prob.double().split(len(rows)), parts):
        pair = torch.stack([own[:, asked], others[:, asked]], 1)
        sides.append(part.gather(1, pair) @ torch.tensor([1.0, -1.0], dtype=torch.float64))
    first, second = sides[0] - sides[1], sides[2] - sides[3]
    return Cycles(second - first, (first + second) / 2)


def _groups(rows: int, logits: int) -> tuple[Tensor, ...]:
    """Row numbers, as many together as may be asked together when each wants so many logits."""
    return torch.arange(rows).split(max(1, min(TOGETHER, LOGITS // logits)))


def pairs(stream: Stream, length: int, draw: int = 0, neighbours: bool = False) -> Tensor:
    """Two different cells, uniformly random or next to each other, in random order, [B, 2]."""
    if length < 2:
        raise BadInput("a row of one cell has no pair of cells: type --length 2 or more.")
    first, gap, turn = stream.uniform(draw, Purpose.BLOCK, 3).T
    near = (first * (length - 1)).long()
    one = near if neighbours else (first * length).long()
    other = near + 1 if neighbours else (one + 1 + (gap * (length - 1)).long()) % length
    both = torch.stack([one, other], 1)
    return torch.where((turn < 0.5)[:, None], both, both.flip(1))


def candidates(conditional: Conditional, tokens: Tensor, cells: Tensor, stream: Stream, draw: int = 0) -> Tensor:
    """Another ordinary token for each of two cells, drawn from p(. | the rest, both masked), [B, 2]."""
    at = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, cells, True)
    index = _groups(len(tokens), 2 * conditional.alphabet.size)
    masked = torch.where(at, conditional.alphabet.mask, tokens)
    log_prob = torch.cat([conditional.rows(i)(masked[i], at[i]) for i in index]).double()
    log_prob[:, sorted(conditional.alphabet.special | {conditional.alphabet.mask})] = -torch.inf
    log_prob = log_prob.scatter(1, tokens[at][:, None], -torch.inf)
    drawn = tokens.clone()
    drawn[at] = inverse_cdf(log_prob, stream.uniform(draw, Purpose.TOKEN, 2).flatten())
    return drawn.gather(1, cells)


def walked(conditional: Conditional, tokens: Tensor, stream: Stream, draws: int, neighbours: bool = False) -> Cycles:
    """Cycles of `draws` random pairs of cells in each row, [B, draws] each; 5 calls a draw."""
    found = []
    for draw in range(draws):
        cells = pairs(stream, tokens.shape[1], draw, neighbours)
        found.append(cycles(conditional, tokens, cells, candidates(conditional, tokens, cells, stream, draw)))
    return Cycles(*(torch.stack(part, 1) for part in zip(*found)))


def ancestral_weights(steps: int, length: int) -> Tensor:
    """How many cells `ancestral` with T steps opens, in the mean, when it sees m = 0..L-1 of them, [L]; the sum is L.

    At step t, m ~ Binomial(L, t/T) cells are seen, and each of the L - m others opens with probability 1 / (T - t).
    """
    seen = torch.arange(length, dtype=torch.float64)
    whole = torch.tensor(float(length), dtype=torch.float64)
    ways = torch.lgamma(whole + 1) - torch.lgamma(seen + 1) - torch.lgamma(whole - seen + 1)
    step = torch.arange(steps, dtype=torch.float64)[:, None]
    log_share = ways + torch.xlogy(seen, step / steps) + torch.xlogy(whole - seen, 1 - step / steps)
    return (log_share.exp() * (whole - seen) / (steps - step)).sum(0)


def ancestral_loss(curve: Tensor, steps: int) -> Tensor:
    """Nats a row that `ancestral` with T steps loses against one cell at a time, [...], for curves f [..., L].

    With the exact conditionals of one law it is the mean of the conditional total correlations over the sampler's
    random times, and so at least KL(p || the sampler's law).
    """
    return curve @ (ancestral_weights(steps, curve.shape[-1]) - 1)


def ancestral_calls(steps: int, length: int) -> float:
    """Network calls of a row in the mean: steps in which one of its cells opens."""
    return steps * (1 - (1 - 1 / steps) ** length)


def fewest_steps(curve: Tensor, nats: float, most: int) -> int | None:
    """The smallest T of 1..most whose loss is at most `nats` a row, for one curve [L]; None where there is none.

    By bisection: the loss falls with T where f falls with m, as that of a joint law does.
    """
    if float(ancestral_loss(curve, most)) > nats:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if float(ancestral_loss(curve, middle)) <= nats else (middle, high)
    return high
