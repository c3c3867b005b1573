"""Laws small enough to enumerate, as exact Conditionals and Nets: the truth that every method is held to.

Shapes: B batch, L length, V ids of the alphabet, A symbols of the law (ids without mask and end), S = A^L states,
N cells asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from remask.core.conditional import Conditional
from remask.core.draw import inverse_cdf
from remask.lab import laws
from remask.lab.laws import Law


class Oracle(Law):
    """A law of the lab (remask/lab/laws.py) that counts who asks, and knows what the tests compare with.

    asked: rows asked so far, all calls together.
    """

    asked = 0

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        cells = torch.ones_like(tokens, dtype=torch.bool) if at is None else at
        self.asked += int(cells.any(1).sum())
        return super().__call__(tokens, at)

    def sample(self, n: int, stream: int) -> Tensor:
        """True rows [n, L] by numpy's generator: streams are under test, and must not vouch for themselves."""
        return self.states[torch.from_numpy(np.random.default_rng(stream).choice(len(self.joint), n, p=self.joint))]

    def masked_entropy(self, k: int) -> float:
        """E of the summed cross-entropy of k masked cells, the subset uniform: sum over k of L/k times it is L H."""
        total, subsets = 0.0, list(combinations(range(self.length), k))
        for subset in subsets:
            at = torch.zeros_like(self.states, dtype=torch.bool)
            at[:, list(subset)] = True
            log_prob = self._log_prob(torch.where(at, self.alphabet.mask, self.states), at)
            nats = -log_prob.gather(1, self.states[at][:, None]).view(len(self.states), k).sum(1)
            total += float(torch.where(self.joint > 0, self.joint * nats, 0.0).sum())
        return total / len(subsets)

    def nats_of_cells(self, tokens: Tensor) -> Tensor:
        """-log p(x_i | x_<i) by the chain rule, [B, L]."""
        nats = []
        for i in range(self.length):
            seen = tokens.clone()
            seen[:, i:] = self.alphabet.mask
            at = torch.zeros_like(tokens, dtype=torch.bool)
            at[:, i] = True
            nats.append(-self._log_prob(seen, at).gather(1, tokens[:, i : i + 1]))
        return torch.cat(nats, 1)


def as_oracle(name: str, law: Law) -> Oracle:
    """A law of the lab under another name, with its ids."""
    shape = [law.symbols] * law.length
    return Oracle(name, law.joint.view(shape), law.alphabet.mask, law.alphabet.end)


def ring_ising(length: int, coupling: float, field: float, *, mask: int, end: int) -> Oracle:
    """Two symbols, p ~ exp(J sum s_i s_{i+1} + h sum s_i) on a ring."""
    return as_oracle("ring_ising", laws.ising(length, coupling, field, "ring", mask=mask, end=end))


def markov_chain(length: int, symbols: int, *, seed: int, mask: int, end: int) -> Oracle:
    """A random chain: Dirichlet(1/2) start and transitions."""
    rng = np.random.default_rng(seed)
    start, step = rng.dirichlet([0.5] * symbols), rng.dirichlet([0.5] * symbols, size=symbols)
    chain = laws.markov_chain(torch.from_numpy(start), torch.from_numpy(step), length, mask=mask, end=end)
    return as_oracle("markov_chain", chain)


def copy_pairs(length: int, symbols: int, *, seed: int, mask: int, end: int) -> Oracle:
    """Every second cell repeats the one before it; the rest is independent: most states have probability zero."""
    pair = torch.diag(torch.from_numpy(np.random.default_rng(seed).dirichlet([2.0] * symbols)))
    joint = pair
    for _ in range(length // 2 - 1):
        joint = joint[..., None, None] * pair
    return Oracle("copy_pairs", joint, mask, end)


def parity(length: int, *, bias: float, mask: int, end: int) -> Oracle:
    """The last cell is the exclusive or of the others: nearly independent in pairs, deterministic together."""
    bits = torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * length)
    free = (bits[:, :-1] * bias + (1 - bits[:, :-1]) * (1 - bias)).prod(1)
    return Oracle("parity", (free * (bits.sum(1) % 2 == 0)).view([2] * length), mask, end)


def random_table(length: int, symbols: int, *, seed: int, mask: int, end: int) -> Oracle:
    """Any law at all: one Dirichlet(1/2) draw over the states."""
    return as_oracle("random_table", laws.random_table(length, symbols, 0.5, seed, mask=mask, end=end))


def independent(length: int, symbols: int, *, seed: int, mask: int, end: int) -> Oracle:
    """Every cell by itself, all with one law: what a unigram model can know."""
    cell = torch.from_numpy(np.random.default_rng(seed).dirichlet([1.0] * symbols))
    joint = cell
    for _ in range(length - 1):
        joint = joint[..., None] * cell
    return Oracle("independent", joint, mask, end)


LAWS: dict[str, Oracle] = {
    oracle.name: oracle
    for oracle in (
        ring_ising(5, 0.7, 0.2, mask=0, end=2),
        markov_chain(4, 4, seed=3, mask=2, end=5),
        copy_pairs(4, 3, seed=1, mask=1, end=0),
        parity(4, bias=0.3, mask=3, end=1),
        random_table(4, 3, seed=2, mask=3, end=4),
        independent(4, 3, seed=5, mask=2, end=4),
    )
}


@dataclass
class Ledger:
    """What a Watched conditional was asked: rows of each call, calls of each root row, cells handed over as settled."""

    calls: Tensor
    batches: list[int] = field(default_factory=list)
    settled: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # root rows, upto


class Watched:
    """A conditional that counts by root row and holds its callers to `rows` and `given`."""

    def __init__(
        self,
        inner: Conditional,
        rows: int,
        ledger: Ledger | None = None,
        index: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ):
        self.inner, self.alphabet, self.visible, self.known = inner, inner.alphabet, inner.visible, known
        self.index = torch.arange(rows) if index is None else index
        self.ledger = Ledger(torch.zeros(rows, dtype=torch.int64)) if ledger is None else ledger

    def __call__(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        assert len(tokens) == len(self.index), "asked about another number of rows than `rows` left"
        if self.known is not None:
            before = torch.arange(tokens.shape[1]) < self.known[1][:, None]
            assert torch.equal(tokens[before], self.known[0][before]), "settled cells were changed"
            assert (tokens[before] != self.alphabet.mask).all(), "a mask was handed over as settled"
        self.ledger.batches.append(len(tokens))
        # a row costs a forward pass whether or not any of its cells is asked for
        self.ledger.calls.index_add_(0, self.index, torch.ones_like(self.index))
        return self.inner(tokens, at)

    def rows(self, index: Tensor) -> Watched:
        known = None if self.known is None else (self.known[0][index], self.known[1][index])
        return Watched(self.inner.rows(index), 0, self.ledger, self.index[index], known)

    def given(self, tokens: Tensor, upto: Tensor) -> Watched:
        self.ledger.settled.append((self.index, upto))
        return Watched(self.inner.given(tokens, upto), 0, self.ledger, self.index, (tokens, upto))


class LawNet:
    """A Net that knows the law: its hidden states are log p of every id, so its losses are exact.

    log_prob_of: tokens [B, L] as the net sees them -> log p [B, L, V].
    """

    training = False  # it has no dropout to put to rest

    def __init__(self, log_prob_of: Callable[[Tensor], Tensor]):
        self.log_prob_of = log_prob_of

    def train(self, mode: bool = True) -> LawNet:
        return self

    def eval(self) -> LawNet:
        return self

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        attend: Tensor | None = None,
    ) -> Tensor:
        return self.log_prob_of(tokens)

    def logits(self, hidden_at: Tensor) -> Tensor:
        return hidden_at

    def _log_probs(self, hidden_at: Tensor, ban: int | None) -> Tensor:
        if ban is not None:
            hidden_at = hidden_at.index_fill(1, torch.tensor([ban]), -torch.inf)
        return hidden_at.log_softmax(1)

    def nll(self, hidden_at: Tensor, targets: Tensor, ban: int | None = None) -> Tensor:
        return -self._log_probs(hidden_at, ban).gather(1, targets[:, None])[:, 0]

    def total_nll(self, hidden_at: Tensor, targets: Tensor, weight: Tensor, ban: int | None = None) -> Tensor:
        return (self.nll(hidden_at, targets, ban) * weight).sum(dtype=torch.float64)

    def total_nll_and_draw(
        self,
        hidden_at: Tensor,
        targets: Tensor,
        weight: Tensor,
        uniform: Tensor,
        ban: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        drawn = inverse_cdf(self._log_probs(hidden_at, ban) / temperature, uniform)
        return self.total_nll(hidden_at, targets, weight, ban), drawn

    def log_prob(self, hidden_at: Tensor, candidates: Tensor, ban: int | None = None) -> Tensor:
        return self._log_probs(hidden_at, ban).gather(1, candidates)


def masked_net(oracle: Oracle) -> LawNet:
    """p(x_i | visible rest)."""
    return LawNet(oracle)


def causal_net(oracle: Oracle) -> LawNet:
    """p(x_i | x_<i) of rows shifted right, as causal nets see them."""

    def log_prob_of(tokens: Tensor) -> Tensor:
        assert (tokens[:, 0] == oracle.alphabet.end).all(), "a causal net sees the end token first"
        parts = []
        for i in range(oracle.length):
            seen = torch.full_like(tokens, oracle.alphabet.mask)
            seen[:, :i] = tokens[:, 1 : i + 1]
            at = torch.zeros_like(tokens, dtype=torch.bool)
            at[:, i] = True
            parts.append(oracle(seen, at))
        return torch.stack(parts, 1)

    return LawNet(log_prob_of)


def frequencies(oracle: Oracle, tokens: Tensor) -> Tensor:
    """Share of each state among rows [n, L], [S] float64."""
    return torch.bincount(oracle.number(tokens), minlength=len(oracle.joint)).double() / len(tokens)


def total_variation(law: Tensor, other: Tensor) -> float:
    """Half the L1 distance of two laws over states."""
    return float((law - other).abs().sum() / 2)


def surprise(counts: Tensor, law: Tensor, least: float = 5.0) -> float:
    """How many standard deviations the chi-square of `counts` [K] under `law` [K] lies above its mean.

    Outcomes expected fewer than `least` times are taken together; one of probability zero that occurs is infinitely
    surprising.
    """
    counts, law = counts.double(), law.double() / law.sum()
    if counts[law == 0].any():
        return math.inf
    expected = law * counts.sum()
    rare = expected < least
    seen, wanted = counts[~rare], expected[~rare]
    if float(expected[rare].sum()) >= least:
        seen, wanted = torch.cat([seen, counts[rare].sum()[None]]), torch.cat([wanted, expected[rare].sum()[None]])
    freedom = len(wanted) - 1
    return (float(((seen - wanted) ** 2 / wanted).sum()) - freedom) / math.sqrt(2 * freedom) if freedom else 0.0


class Floor(NamedTuple):
    """Total variation between a law and n true samples of it: what a perfect sampler shows too."""

    mean: float
    sd: float


def noise_floor(law: Tensor, n: int, repeats: int = 100, seed: int = 0) -> Floor:
    """Mean and spread over `repeats` true samples of size n."""
    counts = np.random.default_rng(seed).multinomial(n, law.numpy() / math.fsum(law.tolist()), size=repeats)
    values = np.abs(counts / n - law.numpy()).sum(1) / 2
    return Floor(float(values.mean()), float(values.std(ddof=1)))
